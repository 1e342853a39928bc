package lab

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// QueryMap asks the running Postseal's socketmap, as Postfix does (socketmap_table(5)),
// and returns what it has for key: "" where it has nothing, and the whole reply
// where that is neither OK nor NOTFOUND, such as "TEMP reason".
func QueryMap(name, key string) (string, error) {
	conn, err := net.Dial("tcp", LocalAddr+":8642")
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	query := name + " " + key
	if _, err := fmt.Fprintf(conn, "%d:%s,", len(query), query); err != nil {
		return "", err
	}
	r := bufio.NewReader(conn)
	var n int
	if _, err := fmt.Fscanf(r, "%d:", &n); err != nil || n > 1<<20 {
		return "", fmt.Errorf("map %s: reply: %d, %w", name, n, err)
	}
	reply := make([]byte, n)
	if _, err := io.ReadFull(r, reply); err != nil {
		return "", fmt.Errorf("map %s: reply: %w", name, err)
	}
	status, text, _ := strings.Cut(string(reply), " ")
	switch status {
	case "OK":
		return text, nil
	case "NOTFOUND":
		return "", nil
	}
	return string(reply), nil
}
