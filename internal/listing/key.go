package listing

import (
	"errors"
	"strconv"
	"strings"
)

// Key is where a page ends: the values of its last row by which the list is sorted.
type Key []string

// ErrKey reports a key that is of no list.
var ErrKey = errors.New("this is no place in the list")

// maxKey bounds the text of a key.
const maxKey = 2048

// String writes a key as it stands in an address, "" for none.
func (k Key) String() string {
	var b strings.Builder
	for i, part := range k {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(strings.NewReplacer("\\", "\\\\", " ", "\\s").Replace(part))
	}
	return b.String()
}

// ParseKey reads what String has written; nil of "".
func ParseKey(s string) (Key, error) {
	if s == "" {
		return nil, nil
	}
	if len(s) > maxKey || strings.ContainsRune(s, 0) {
		return nil, ErrKey
	}
	k := Key{""}
	for i := 0; i < len(s); i++ {
		last := &k[len(k)-1]
		switch {
		case s[i] == ' ':
			k = append(k, "")
		case s[i] != '\\':
			*last += s[i : i+1]
		case i+1 < len(s) && s[i+1] == '\\':
			*last += "\\"
			i++
		case i+1 < len(s) && s[i+1] == 's':
			*last += " "
			i++
		default:
			return nil, ErrKey
		}
	}
	return k, nil
}

// Int reads a part of a key that is a number.
func (k Key) Int(i int) (int64, error) {
	if i >= len(k) {
		return 0, ErrKey
	}
	n, err := strconv.ParseInt(k[i], 10, 64)
	if err != nil {
		return 0, ErrKey
	}
	return n, nil
}
