package audit

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// timeFormat keeps microseconds, which are part of what is hashed.
const timeFormat = "2006-01-02T15:04:05.000000Z07:00"

// jsonRecord is a record as a line of JSON.
type jsonRecord struct {
	Seq       int64   `json:"seq"`
	At        string  `json:"at"`
	Kind      string  `json:"kind"`
	Actor     string  `json:"actor"`
	Name      string  `json:"name,omitempty"`
	Client    string  `json:"client,omitempty"`
	Item      string  `json:"item,omitempty"`
	Sender    string  `json:"sender,omitempty"`
	Recipient string  `json:"recipient,omitempty"`
	Details   Details `json:"details,omitempty"`
	Hash      string  `json:"hash"`
}

// MarshalJSON writes a record with all that is hashed.
func (r Record) MarshalJSON() ([]byte, error) {
	return json.Marshal(jsonRecord{
		r.Seq, r.At.UTC().Format(timeFormat), r.Kind, r.Actor.Kind, r.Actor.Name, r.Actor.Client,
		r.Item, r.Sender, r.Recipient, r.Details, hex.EncodeToString(r.Hash[:]),
	})
}

// UnmarshalJSON reads what MarshalJSON has written.
func (r *Record) UnmarshalJSON(b []byte) error {
	var j jsonRecord
	if err := json.Unmarshal(b, &j); err != nil {
		return fmt.Errorf("entry: %w", err)
	}
	if j.Seq < 1 {
		return errors.New("entry: has no number")
	}
	at, err := time.Parse(timeFormat, j.At)
	if err != nil {
		return fmt.Errorf("entry %d: %w", j.Seq, err)
	}
	*r = Record{Seq: j.Seq, Entry: Entry{
		At: at.UTC(), Kind: j.Kind, Actor: Actor{j.Actor, j.Name, j.Client},
		Item: j.Item, Sender: j.Sender, Recipient: j.Recipient, Details: j.Details,
	}}
	if err := parseHash(&r.Hash, j.Hash); err != nil {
		return fmt.Errorf("entry %d: %w", j.Seq, err)
	}
	return nil
}
