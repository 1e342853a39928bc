package check

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/postseal/postseal/tlsmap/probe"
)

// maxLine bounds a line of the input; no domain or address is as long.
const maxLine = 2048

// Item is one line of the input that asks for something.
type Item struct {
	Line  int    // from 1, blank lines and comments counted
	Asked string // as written, see [Report]
	Err   error  // why it is no destination; nil: it is one
}

// Lines reads a list of domains and addresses, one a line: blank lines and what
// follows # at the start or after white space are skipped; a byte order mark and CR
// at the end of a line do no harm. It holds one line at a time.
type Lines struct {
	r    *bufio.Reader
	line int
}

// NewLines reads from r.
func NewLines(r io.Reader) *Lines { return &Lines{r: bufio.NewReaderSize(r, maxLine)} }

// Next returns the next item; io.EOF at the end, and any other error is that of the
// reader. A line that is no destination is an item with an Err.
func (l *Lines) Next() (Item, error) {
	for {
		line, long, err := l.read()
		if err != nil {
			return Item{}, err
		}
		l.line++
		if l.line == 1 {
			line = bytes.TrimPrefix(line, []byte("\xef\xbb\xbf"))
			if bytes.HasPrefix(line, []byte("\xff\xfe")) || bytes.HasPrefix(line, []byte("\xfe\xff")) {
				return Item{}, errors.New("the list is UTF-16: save it as UTF-8")
			}
		}
		asked := withoutComment(string(line))
		if asked == "" {
			continue
		}
		it := Item{Line: l.line, Asked: text(asked)}
		if it.Err = checkAsked(asked); long {
			it.Err = fmt.Errorf("longer than %d bytes", maxLine)
		}
		return it, nil
	}
}

// read returns one line without its end; long says that there was more of it, which is
// left out.
func (l *Lines) read() (line []byte, long bool, err error) {
	line, err = l.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		line, long = bytes.Clone(line), true
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = l.r.ReadSlice('\n')
		}
	}
	if err != nil && (!errors.Is(err, io.EOF) || len(line) == 0) {
		return nil, false, err
	}
	return line, long, nil
}

func withoutComment(s string) string {
	for i := 0; i < len(s); i++ {
		if s[i] == '#' && (i == 0 || s[i-1] == ' ' || s[i-1] == '\t') {
			s = s[:i]
		}
	}
	return strings.TrimSpace(s)
}

// checkAsked reports what is neither a domain nor an address nor a next-hop.
func checkAsked(asked string) error {
	switch {
	case !utf8.ValidString(asked):
		return errors.New("not UTF-8")
	case strings.ContainsAny(asked, " \t") && !strings.HasPrefix(asked, `"`):
		return errors.New("more than one word: want one domain or address a line")
	}
	return probe.CheckDestination(asked[strings.LastIndexByte(asked, '@')+1:])
}

// CountItems counts the items of a list.
func CountItems(r io.Reader) (int, error) {
	l := NewLines(r)
	for n := 0; ; n++ {
		if _, err := l.Next(); errors.Is(err, io.EOF) {
			return n, nil
		} else if err != nil {
			return n, err
		}
	}
}
