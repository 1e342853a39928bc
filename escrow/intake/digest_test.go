package intake

import (
	"crypto/sha256"
	"regexp"
	"strings"
	"testing"

	"github.com/postseal/postseal/escrow"
)

// slowDigest is the definition, over the whole message.
func slowDigest(text, uid, queueID string) escrow.Digest {
	field := regexp.MustCompile(`^[^\n]*\n(?:[ \t][^\n]*\n)*`)
	rest, last := text, ""
	for uid != "" {
		f := field.FindString(rest)
		if f == rest && !strings.HasSuffix(f, "\n") {
			f = rest
		}
		if f == "" {
			f = regexp.MustCompile(`^[^\n]*(?:\n[ \t][^\n]*)*$`).FindString(rest)
		}
		// A last line without an end belongs to the field it folds.
		if tail := rest[len(f):]; f != "" && tail != "" && (tail[0] == ' ' || tail[0] == '\t') && !strings.Contains(tail, "\n") {
			f = rest
		}
		m := requeued.FindStringSubmatch(f)
		if f == "" || m == nil || m[1] != uid || len(f) > maxRequeue {
			break
		}
		last, rest = f, rest[len(f):]
	}
	below := false
	for line := range strings.Lines(rest) {
		if strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r") == "" {
			break
		}
		if len(line) >= 9 && strings.EqualFold(line[:9], "received:") {
			below = true
		}
	}
	if !below {
		rest = last + rest
		if last == "" && queueID != "" {
			rest += "\x00queue id " + queueID
		}
	}
	return sha256.Sum256([]byte(rest))
}

func digestOf(text, uid, queueID string, step int) escrow.Digest {
	d := newDigester(uid)
	for len(text) > 0 {
		n := min(step, len(text))
		d.Write([]byte(text[:n]))
		text = text[n:]
	}
	return d.sum(queueID)
}

func TestDigest(t *testing.T) {
	const (
		requeue  = "Received: by mx.test (Postfix, from userid 105)\r\n\tid 4NEW1; Tue, 24 Nov 2026 01:00:00 +0000\r\n"
		requeue2 = "received: by mx.test (Postfix, from userid 105)\r\n\tid 4NEW2; Tue, 24 Nov 2026 02:00:00 +0000\r\n"
		sendmail = "Received: by mx.test (Postfix, from userid 1000)\r\n\tid 4OLD1; Tue, 24 Nov 2026 00:00:00 +0000\r\n"
		mark     = "X-Postseal-Requirement: tls abc\r\n"
	)
	renamed := strings.Replace(requeue, "Postfix", "Mail System", 1)
	tests := []struct {
		name, a, b string
		same       bool
	}{
		{"requeued", requeue + plainText, plainText, true},
		{"requeued twice", requeue2 + requeue + plainText, plainText, true},
		{"requeued, with a header put above Received", requeue + mark + plainText, mark + plainText, true},
		{"requeued, of sendmail", requeue + sendmail + "Subject: a\r\n\r\n", sendmail + "Subject: a\r\n\r\n", true},
		{"requeued under another mail_name", renamed + plainText, plainText, true},
		{"queue id differs", plainText, strings.Replace(plainText, "4XYZ123", "4XYZ124", 1), false},
		{"sent by Postfix's own user: its only Received counts", requeue + "Subject: a\r\n\r\n", requeue2 + "Subject: a\r\n\r\n", false},
		{"the same, requeued", requeue2 + requeue + "Subject: a\r\n\r\n", requeue + "Subject: a\r\n\r\n", true},
		{"another user's", sendmail + plainText, plainText, false},
		{"not at the top", "X: y\r\n" + requeue + plainText, "X: y\r\n" + plainText, false},
		{"Received in the body does not count", requeue + "Subject: a\r\n\r\n" + receivedLine, requeue2 + "Subject: a\r\n\r\n" + receivedLine, false},
		{"text differs", plainText, plainText + "\r\n", false},
		{"line ends count", "a: b\r\n\r\nx\r\n", "a: b\r\n\r\nx\n", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, step := range []int{1, 3, 100000} {
				if got := digestOf(tt.a, "105", "", step) == digestOf(tt.b, "105", "", step); got != tt.same {
					t.Errorf("step %d: same = %v, want %v", step, got, tt.same)
				}
			}
			for _, text := range []string{tt.a, tt.b} {
				if digestOf(text, "105", "Q", 7) != slowDigest(text, "105", "Q") {
					t.Error("differs from the definition")
				}
			}
		})
	}
	if digestOf(requeue+plainText, "", "", 10) == digestOf(plainText, "", "", 10) {
		t.Error("without a user id nothing may be skipped")
	}
	if digestOf(plainText, "105", "A", 10) != digestOf(plainText, "105", "B", 10) {
		t.Error("a queue id must not count where a Received field does")
	}
	if digestOf("a: b\r\n\r\n", "105", "A", 10) == digestOf("a: b\r\n\r\n", "105", "B", 10) {
		t.Error("without a Received field the queue id tells messages apart")
	}
}

func FuzzDigest(f *testing.F) {
	f.Add(plainText, 7)
	f.Add("Received: by a (P, from userid 105)\r\n\tid x\r\n"+plainText, 1)
	f.Add("Received: by a (P, from userid 105)\n id", 2)
	f.Add("Received: by a (P, from userid 105) \nReceived: by a (P, from userid 105) \n\n", 2)
	f.Fuzz(func(t *testing.T, text string, step int) {
		if step < 1 || len(text) > 2000 {
			return
		}
		if digestOf(text, "105", "Q", step) != slowDigest(text, "105", "Q") {
			t.Fatalf("differs from the definition")
		}
	})
}

func FuzzHeader(f *testing.F) {
	f.Add(plainText)
	f.Add("subject : a\r\n b\r\nX-Postseal-Requirement:  tls\r\n\tx\r\nReceived: a\r\n\r\nSubject: no\r\n")
	f.Add("Subject: " + strings.Repeat("x", 10000) + "\r\nSubject: b")
	f.Add("\r\nSubject: a\r\n")
	f.Add(" Subject: a\n\r\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		var subjects, marks int
		h := header{concerns: isSubject, field: func(field) { subjects++ }, mark: func(v string) {
			if strings.ContainsAny(v, "\r\n\t") {
				t.Errorf("mark %q", v)
			}
			marks++
		}}
		if err := h.read(strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		// The definition, for fields without folds before the name.
		want := 0
		for line := range strings.Lines(text) {
			if strings.TrimRight(line, "\r\n") == "" {
				break
			}
			if name, _, ok := strings.Cut(line, ":"); ok && strings.EqualFold(strings.TrimRight(name, " \t"), "subject") {
				want++
			}
		}
		if subjects != want {
			t.Errorf("%d subjects, want %d", subjects, want)
		}
		if h.queueID != "" && !isIdent(h.queueID) {
			t.Errorf("queue id %q", h.queueID)
		}
	})
}

func TestHeaderOfGreatLength(t *testing.T) {
	var got []string
	h := header{concerns: isSubject, field: func(f field) { got = append(got, f.value) }, mark: func(string) {}}
	long := strings.Repeat("x", 3*maxField)
	if err := h.read(strings.NewReader("Subject: " + long + "\r\n folded\r\nX: " + long + "\r\nSubject: second\r\n\r\nSubject: body")); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || len(got[0]) > maxField || !strings.HasPrefix(got[1], " second") {
		t.Errorf("%d subjects", len(got))
	}
}

func TestQueueIDs(t *testing.T) {
	for text, want := range map[string]string{
		receivedLine: "4XYZ123",
		"Received: by mx (Postfix, from userid 0)\r\n\tid 3A2B4C5D6E; Tue\r\n":                                   "3A2B4C5D6E",
		"Received: by mx (Postfix)\r\n\tid 4cXyZw1AbCz9; Tue\r\n":                                                "4cXyZw1AbCz9",
		"Received: from id (x [1.2.3.4])\r\n\t(using TLSv1.3)\r\n\tby mx (Postfix) with ESMTPSA id 4B5; Tue\r\n": "",
		"X: y\r\n": "",
	} {
		h := header{concerns: isSubject, field: func(field) {}, mark: func(string) {}}
		if err := h.read(strings.NewReader(text)); err != nil || h.queueID != want {
			t.Errorf("%q: queue id %q, want %q", text, h.queueID, want)
		}
	}
}

func isSubject(name string) bool { return strings.EqualFold(name, "Subject") }
