package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strconv"
)

// maxLine is more than any line of an export or of a log has, in bytes.
const maxLine = 1 << 20

// checkpointMark is in each line that holds a checkpoint.
const checkpointMark = "checkpoint"

var logAttr = regexp.MustCompile(`(?:^|[ ])([a-z]+)=("(?:[^"\\]|\\.)*"|[^ "]+)`)

// ReadCheckpoints reads the checkpoints of a file that they were appended to, or of the
// log of postseal serve, in text or in JSON. Lines without one are skipped.
func ReadCheckpoints(r io.Reader) ([]Checkpoint, error) {
	var list []Checkpoint
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	for n := 1; s.Scan(); n++ {
		c, ok, err := readCheckpoint(s.Bytes())
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if ok {
			list = append(list, c)
		}
	}
	return list, s.Err()
}

func readCheckpoint(line []byte) (c Checkpoint, ok bool, err error) {
	if !bytes.Contains(line, []byte(checkpointMark)) {
		return c, false, nil
	}
	if i := bytes.IndexByte(line, '{'); i >= 0 {
		var is struct {
			Kind string `json:"checkpoint"`
		}
		if json.Unmarshal(line[i:], &is) == nil {
			if is.Kind == "" {
				return c, false, nil
			}
			return c, true, json.Unmarshal(line[i:], &c)
		}
	}
	found := make(map[string]any)
	for _, m := range logAttr.FindAllSubmatch(line, -1) {
		v := string(m[2])
		if v[0] == '"' {
			if v, err = strconv.Unquote(v); err != nil {
				return c, false, nil
			}
		}
		found[string(m[1])] = v
	}
	if found["checkpoint"] == nil || found["signature"] == nil {
		return c, false, nil
	}
	seq, _ := found["seq"].(string)
	found["seq"] = json.Number(seq)
	b, err := json.Marshal(found)
	if err != nil {
		return c, false, fmt.Errorf("checkpoint: %w", err)
	}
	return c, true, json.Unmarshal(b, &c)
}

// Attrs returns a checkpoint as attributes of a line in the log, from which
// [ReadCheckpoints] reads it.
func (c *Checkpoint) Attrs() []any {
	b, _ := json.Marshal(c) // of strings and a number
	var j jsonCheckpoint
	json.Unmarshal(b, &j)
	sig, _ := json.Marshal(j.Signature)
	return []any{checkpointMark, j.Kind, "at", j.At, "seq", j.Seq, "hash", j.Hash, "signature", string(bytes.Trim(sig, `"`))}
}

// ReadExport reads an export: each line a record or a checkpoint. It stops at the first
// error of record.
func ReadExport(r io.Reader, record func(*Record) error, checkpoint func(Checkpoint) error) error {
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	for n := 1; s.Scan(); n++ {
		line := bytes.TrimSpace(s.Bytes())
		if len(line) == 0 {
			continue
		}
		c, ok, err := readCheckpoint(line)
		if ok && err == nil {
			err = checkpoint(c)
		} else if err == nil {
			var rec Record
			if err = json.Unmarshal(line, &rec); err == nil {
				err = record(&rec)
			}
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	return s.Err()
}
