package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var testKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))

func publicKey() ed25519.PublicKey { return testKey.Public().(ed25519.PublicKey) }

// chain returns n records that go with each other.
func chain(n int) []Record {
	var list []Record
	var before Hash
	for i := range n {
		r := Record{Seq: int64(i + 1), Entry: Entry{
			At: time.UnixMicro(1764000000000000 + int64(i)), Kind: Kinds[i%len(Kinds)], Actor: Actor{ActorCommand, "root", "192.0.2.1"},
			Item: "item", Sender: "a@own.example", Recipient: "ü@b.example", Details: Details{"how": "code", "a": "1"},
		}.Clean()}
		r.Hash = r.Sum(before)
		before = r.Hash
		list = append(list, r)
	}
	return list
}

func mark(kind string, list []Record, seq int64) Checkpoint {
	c := Checkpoint{Kind: kind, At: time.UnixMicro(1764000000000000), Seq: seq}
	if seq > 0 {
		c.Hash = list[seq-1].Hash
	}
	c.Sign(testKey)
	return c
}

func verify(list []Record, marks ...Checkpoint) Report {
	v := NewVerifier(publicKey(), marks)
	for i := range list {
		v.Next(&list[i])
	}
	return v.Close()
}

// TestVectors holds the encoding, the hash, the signature and the JSON of an export as
// they were published: what was exported years ago must verify.
func TestVectors(t *testing.T) {
	f, err := os.Open("testdata/v1.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var marks []Checkpoint
	var list []Record
	err = ReadExport(f, func(r *Record) error { list = append(list, *r); return nil }, func(c Checkpoint) error { marks = append(marks, c); return nil })
	if err != nil {
		t.Fatal(err)
	}
	if r := verify(list, marks...); !r.OK() || r.Entries != 3 || r.Checkpoints != 2 {
		t.Errorf("%+v", r)
	}
	want, err := os.ReadFile("testdata/v1-entry1.hex")
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(list[0].Encode(nil, Hash{})); got != strings.TrimSpace(string(want)) {
		t.Errorf("entry 1 is encoded as %s", got)
	}
	if got := chain(3); !reflect.DeepEqual(got, list) {
		t.Errorf("%+v\nis not\n%+v", got, list)
	}
}

func TestVerifierSaysWhere(t *testing.T) {
	sound := func() []Record { return chain(10) }
	daily := mark(Daily, sound(), 8)
	cut := mark(Cut, sound(), 4)
	forged := mark(Cut, sound(), 2)
	forged.Seq, forged.Hash = 4, sound()[3].Hash
	rewritten := func(from int) []Record { // all from there on written anew
		list := sound()
		list[from].Recipient = "other@b.example"
		for i := from; i < len(list); i++ {
			list[i].Hash = list[i].Sum(list[i-1].Hash)
		}
		return list
	}
	edited := sound()
	edited[4].Recipient = "other@b.example"
	detail := sound()
	detail[4].Details = Details{"how": "code", "a": "2"}
	rehashed := sound()
	rehashed[4].Recipient = "other@b.example"
	rehashed[4].Hash = rehashed[4].Sum(rehashed[3].Hash)
	swapped := sound()
	swapped[4].Entry, swapped[5].Entry = swapped[5].Entry, swapped[4].Entry
	moved := sound()
	moved[4], moved[5] = moved[5], moved[4]
	inserted := slices.Insert(sound(), 5, sound()[4])
	for i := 5; i < len(inserted); i++ {
		inserted[i].Seq++
	}
	for _, c := range []struct {
		name  string
		list  []Record
		marks []Checkpoint
		at    int64 // 0: nothing is wrong
		why   string
	}{
		{"sound", sound(), []Checkpoint{daily}, 0, ""},
		{"empty", nil, []Checkpoint{mark(Daily, nil, 0)}, 0, ""},
		{"edited", edited, nil, 5, "does not go with its hash"},
		{"a detail edited", detail, nil, 5, "does not go with its hash"},
		{"edited and hashed anew", rehashed, nil, 6, "the one before it"},
		{"one deleted", slices.Delete(sound(), 4, 5), nil, 5, "entry 5 is missing"},
		{"three deleted", slices.Delete(sound(), 4, 7), nil, 5, "entries 5 to 7 are missing"},
		{"the first deleted", sound()[1:], nil, 1, "entry 1 is missing"},
		{"two exchanged", swapped, nil, 5, "does not go with its hash"},
		{"order exchanged", moved, nil, 5, "entry 5 is missing"},
		{"one put in", inserted, nil, 6, "was put in"},
		{"cut at the end", sound()[:7], []Checkpoint{daily}, 8, "cut at its end"},
		{"cut at the end to nothing", nil, []Checkpoint{daily}, 8, "cut at its end"},
		{"cut behind the last checkpoint", sound()[:8], []Checkpoint{daily}, 0, ""}, // as documented
		{"written anew", rewritten(5), []Checkpoint{daily}, 8, "written anew"},
		{"written anew, without a checkpoint", rewritten(5), nil, 0, ""}, // hence checkpoints
		{"a checkpoint inside a gap", slices.Delete(sound(), 6, 9), []Checkpoint{daily}, 7, "missing"},
		{"pruned", sound()[4:], []Checkpoint{mark(Daily, sound(), 2), cut, daily}, 0, ""},
		{"pruned, nothing left", nil, []Checkpoint{cut}, 0, ""},
		{"pruned without a cut", sound()[4:], []Checkpoint{mark(Daily, sound(), 4), daily}, 1, "missing"},
		{"pruned by a forged cut", sound()[4:], []Checkpoint{forged}, 4, "not signed"},
		{"more gone than the cut says", sound()[5:], []Checkpoint{cut}, 5, "entry 5 is missing"},
	} {
		r := verify(c.list, c.marks...)
		switch {
		case c.at == 0 && !r.OK():
			t.Errorf("%s: %+v", c.name, r.Problems)
		case c.at != 0 && (r.OK() || r.Problems[0].Seq != c.at || !strings.Contains(r.Problems[0].Why, c.why)):
			t.Errorf("%s: %+v, want %d: %s", c.name, r.Problems, c.at, c.why)
		}
	}
	wrong := mark(Daily, sound(), 8)
	wrong.Kind = Asked
	if wrong.Valid(publicKey()) || daily.Valid(ed25519.NewKeyFromSeed(make([]byte, 32)).Public().(ed25519.PublicKey)) {
		t.Error("a checkpoint is valid whatever it says, or whoever has signed it")
	}
}

// TestEachFieldIsHashed holds that nothing of a record can be changed unseen.
func TestEachFieldIsHashed(t *testing.T) {
	base := chain(1)[0]
	sum := base.Sum(Hash{})
	for name, change := range map[string]func(r *Record){
		"seq": func(r *Record) { r.Seq++ }, "at": func(r *Record) { r.At = r.At.Add(time.Microsecond) }, "kind": func(r *Record) { r.Kind += "x" },
		"actor": func(r *Record) { r.Actor.Kind += "x" }, "name": func(r *Record) { r.Actor.Name += "x" }, "client": func(r *Record) { r.Actor.Client += "x" },
		"item": func(r *Record) { r.Item = "" }, "sender": func(r *Record) { r.Sender += "x" }, "recipient": func(r *Record) { r.Recipient += "x" },
		"moved": func(r *Record) { r.Sender, r.Recipient = r.Sender+r.Recipient, "" }, "details": func(r *Record) { r.Details = Details{"how": "code1", "a": ""} },
		"no details": func(r *Record) { r.Details = nil },
	} {
		r := base
		if change(&r); r.Sum(Hash{}) == sum {
			t.Errorf("%s is not hashed", name)
		}
	}
	if base.Sum(Hash{1}) == sum {
		t.Error("the hash before is not hashed")
	}
}

func TestCleanKeepsOneLineOfEach(t *testing.T) {
	e := Entry{
		At: time.Date(2026, 11, 27, 12, 0, 0, 123456789, time.FixedZone("", 3600)), Kind: Decision, Sender: "a\nb\x00\xff@c",
		Details: Details{"long": strings.Repeat("é", maxDetail), "empty": ""},
	}.Clean()
	if e.Sender != "a b \uFFFD@c" || e.At.Nanosecond() != 123456000 || e.At.Location() != time.UTC {
		t.Errorf("%+v", e)
	}
	if long := e.Details["long"]; len(long) > maxDetail || !strings.HasSuffix(long, "é…") || len(e.Details) != 1 {
		t.Errorf("%d bytes, %q", len(long), long[len(long)-8:])
	}
	again := e.Clean()
	if !reflect.DeepEqual(e, again) {
		t.Errorf("%+v is not %+v", again, e)
	}
}

func TestContextCarriesTheActor(t *testing.T) {
	ctx := context.Background()
	if By(ctx).Kind != ActorServer {
		t.Errorf("%+v", By(ctx))
	}
	ctx = With(ctx, Actor{Kind: ActorPortal, Client: "192.0.2.7"})
	one := Also(ctx, Entry{Kind: Sealed})
	two := Also(one, Entry{Kind: Read})
	if By(two).Client != "192.0.2.7" || len(Pending(ctx)) != 0 || len(Pending(one)) != 1 || len(Pending(two)) != 2 || Pending(two)[0].Kind != Sealed {
		t.Error(By(two), Pending(two))
	}
}

// TestCheckpointsAreReadFromALog reads them as they are written: to a file, to the log
// in text and in JSON, behind what syslog puts before a line.
func TestCheckpointsAreReadFromALog(t *testing.T) {
	c := mark(Daily, chain(8), 8)
	line, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for name, log := range map[string]string{
		"file": string(line) + "\n", "text": logLine(t, false, c), "json": logLine(t, true, c),
		"journal": "Nov 27 12:00:00 mx postseal[7]: " + logLine(t, false, c),
	} {
		got, err := ReadCheckpoints(strings.NewReader("level=INFO msg=ready\n{\"msg\":\"no checkpoint\"}\n" + log))
		if err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], c) || !got[0].Valid(publicKey()) {
			t.Errorf("%s: %+v, %v\n%s", name, got, err, log)
		}
	}
}

func FuzzReadExport(f *testing.F) {
	list := chain(2)
	for _, v := range []any{list[0], mark(Daily, list, 2)} {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	f.Add(`level=INFO msg="checkpoint of the audit log" checkpoint=daily at=2026-11-27T00:00:00.000000Z seq=5 hash=00 signature="AA=="`)
	f.Add("{}\n\n[]")
	f.Fuzz(func(t *testing.T, text string) {
		v := NewVerifier(publicKey(), nil)
		_ = ReadExport(strings.NewReader(text), func(r *Record) error {
			v.Next(r)
			b, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			var again Record
			if err := json.Unmarshal(b, &again); err != nil || again.Sum(Hash{}) != r.Sum(Hash{}) {
				t.Fatalf("%s: %v", b, err)
			}
			return nil
		}, func(c Checkpoint) error { NewVerifier(publicKey(), []Checkpoint{c}).Close(); return nil })
		_, _ = ReadCheckpoints(strings.NewReader(text))
	})
}

func BenchmarkVerify(b *testing.B) {
	list := chain(1000)
	b.ReportAllocs()
	for b.Loop() {
		if r := verify(list); !r.OK() {
			b.Fatal(r.Problems)
		}
	}
	b.ReportMetric(float64(b.N)*1000/b.Elapsed().Seconds(), "entries/s")
}
