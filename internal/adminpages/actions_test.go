package adminpages

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
)

// fakeActions remembers what it was told to do.
type fakeActions struct {
	did []string
	err error
}

func (a *fakeActions) note(format string, args ...any) error {
	a.did = append(a.did, fmt.Sprintf(format, args...))
	return a.err
}

func (a *fakeActions) Retract(_ context.Context, id, recipient string) error {
	return a.note("retract %s %q", id, recipient)
}

func (a *fakeActions) Extend(_ context.Context, id, recipient string, d time.Duration) (time.Time, error) {
	return testNow.Add(d), a.note("extend %s %q %s", id, recipient, d)
}

func (a *fakeActions) Hold(_ context.Context, id, note string) error {
	return a.note("hold %s %q", id, note)
}

func (a *fakeActions) Release(_ context.Context, id, note string) error {
	return a.note("release %s %q", id, note)
}

func (a *fakeActions) Unlock(_ context.Context, address string) error {
	return a.note("unlock %s", address)
}

type operatorKey struct{}

// withActions lets those do something who are operators.
func withActions(a *fakeActions, operator bool) func(*Options) {
	return func(o *Options) {
		wrap := o.Wrap
		o.Wrap = func(h http.Handler) http.Handler {
			return wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), operatorKey{}, operator)))
			}))
		}
		o.Actions = a
		o.MayOperate = func(ctx context.Context) bool { return ctx.Value(operatorKey{}) == true }
		o.Operate = func(h http.Handler) http.Handler {
			return o.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !operator {
					http.Error(w, "not allowed", http.StatusForbidden)
					return
				}
				h.ServeHTTP(w, r)
			}))
		}
		o.Locked = func(context.Context, string) (time.Time, error) { return testNow.Add(time.Hour), nil }
	}
}

func (s *site) post(path string, fields url.Values) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(fields.Encode()))
	r.Host = "127.0.0.1:8646"
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	s.mux.ServeHTTP(w, r)
	return w
}

// opens is a store whose message is as actions want it.
func opens(held bool) *fakeStore {
	s := fullStore()
	if !held {
		s.item.HeldAt, s.item.HeldBy, s.item.HeldNote = time.Time{}, "", ""
	}
	return s
}

func TestOperatorsAct(t *testing.T) {
	item := "/items/" + testID(0)
	tests := []struct {
		name   string
		held   bool
		path   string
		fields url.Values
		code   int
		did    string // "": nothing
	}{
		{"taken back from all", false, item + "/retract", url.Values{"recipient": {"*"}}, 303, `retract ` + testID(0) + ` ""`},
		{"taken back from one", false, item + "/retract", url.Values{"recipient": {"pat@partner.example"}}, 303, `retract ` + testID(0) + ` "pat@partner.example"`},
		{"a form without its field is not for all", false, item + "/retract", nil, 422, ""},
		{"an empty field is not for all", false, item + "/retract", url.Values{"recipient": {""}}, 422, ""},
		{"fields of the address don't count", false, item + "/retract?recipient=*", nil, 422, ""},
		{"extended", false, item + "/extend", url.Values{"recipient": {"*"}, "days": {"14"}}, 303, `extend ` + testID(0) + ` "" 336h0m0s`},
		{"extended by nothing", false, item + "/extend", url.Values{"recipient": {"*"}, "days": {"0"}}, 422, ""},
		{"extended backwards", false, item + "/extend", url.Values{"recipient": {"*"}, "days": {"-5"}}, 422, ""},
		{"extended for ever", false, item + "/extend", url.Values{"recipient": {"*"}, "days": {"99999999"}}, 422, ""},
		{"extended by a word", false, item + "/extend", url.Values{"recipient": {"*"}, "days": {"long"}}, 422, ""},
		{"held", false, item + "/hold", url.Values{"note": {" case 12/26 "}}, 303, `hold ` + testID(0) + ` "case 12/26"`},
		{"held without a reason", false, item + "/hold", url.Values{"note": {"  "}}, 422, ""},
		{"held for two lines", false, item + "/hold", url.Values{"note": {"a\nb"}}, 422, ""},
		{"held for a book", false, item + "/hold", url.Values{"note": {strings.Repeat("a", 501)}}, 422, ""},
		{"released", true, item + "/release", url.Values{"note": {"closed"}}, 303, `release ` + testID(0) + ` "closed"`},
		{"too much", false, item + "/retract", url.Values{"recipient": {"*"}, "x": {strings.Repeat("a", maxForm)}}, 400, ""},
		{"an unknown message", false, "/items/" + testID(77) + "/retract", url.Values{"recipient": {"*"}}, 404, ""},
		{"no message", false, "/items/odd/retract", url.Values{"recipient": {"*"}}, 404, ""},
		{"unlocked", false, "/recipients/PAT@partner.example/unlock", nil, 303, "unlock pat@partner.example"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := &fakeActions{}
			s := newSite(t, opens(tt.held), withActions(a, true))
			w := s.post(tt.path, tt.fields)
			if w.Code != tt.code || strings.Join(a.did, "; ") != tt.did {
				t.Fatalf("%d, %q: %s", w.Code, a.did, text(w.Body.String()))
			}
			if tt.code == http.StatusSeeOther {
				for n, want := range []bool{true, false} { // once
					r := httptest.NewRequest(http.MethodGet, w.Header().Get("Location"), nil)
					r.Host = "127.0.0.1:8646"
					for _, c := range w.Result().Cookies() {
						if c.Path != r.URL.EscapedPath() || c.SameSite != http.SameSiteStrictMode || !c.HttpOnly {
							t.Errorf("cookie %+v", c)
						}
						if c.MaxAge >= 0 {
							r.AddCookie(c)
						}
					}
					after := httptest.NewRecorder()
					s.mux.ServeHTTP(after, r)
					if after.Code != http.StatusOK || strings.Contains(after.Body.String(), `role="status"`) != want {
						t.Errorf("after it, look %d: %s: %d", n, r.URL, after.Code)
					}
					w = after
					w.Header().Set("Location", r.URL.String())
				}
			} else if tt.code == http.StatusUnprocessableEntity && !strings.Contains(w.Body.String(), `role="alert"`) {
				t.Errorf("it is not said: %s", text(w.Body.String()))
			}

			viewer := &fakeActions{}
			if w := newSite(t, opens(tt.held), withActions(viewer, false)).post(tt.path, tt.fields); w.Code != http.StatusForbidden || viewer.did != nil {
				t.Errorf("a viewer: %d, %q", w.Code, viewer.did)
			}
		})
	}
}

// TestNothingIsDoneByLooking holds that a GET does nothing, asks with all that is to be known, and is offered
// only where it can be done, and to those who may.
func TestNothingIsDoneByLooking(t *testing.T) {
	item := "/items/" + testID(0)
	for _, held := range []bool{false, true} {
		a := &fakeActions{}
		s := newSite(t, opens(held), withActions(a, true))
		_, page := s.get(item)
		for name, want := range map[string]bool{"retract": true, "extend": true, "hold": !held, "release": held} {
			if got := strings.Contains(page, `href="`+item+"/"+name+`"`); got != want {
				t.Errorf("held %v: %s is offered: %v", held, name, got)
			}
			code, body := s.get(item + "/" + name)
			if want && (code != http.StatusOK || !strings.Contains(body, `method="post" action="`+item+"/"+name+`"`)) || !want && code != http.StatusConflict {
				t.Errorf("held %v: %s: %d %s", held, name, code, text(body))
			}
		}
		if _, body := s.get("/recipients/pat@partner.example"); !strings.Contains(body, `href="/recipients/pat@partner.example/unlock"`) {
			t.Error("no way to unlock")
		}
		s.get("/recipients/pat@partner.example/unlock")
		if a.did != nil {
			t.Errorf("a look did %q", a.did)
		}
		if _, body := newSite(t, opens(held), withActions(a, false)).get(item); strings.Contains(body, "/retract") {
			t.Error("a viewer is offered what only operators may do")
		}
		if _, body := newSite(t, opens(held), withActions(a, false)).get("/recipients/pat@partner.example"); strings.Contains(body, "/unlock") {
			t.Error("a viewer is offered to unlock")
		}
	}
	if _, body := newSite(t, opens(false), withActions(&fakeActions{}, true)).get(item + "?done=retract"); strings.Contains(body, `role="status"`) {
		t.Error("a link has the page say that something was done")
	}
}

func TestWhatCannotBeDoneIsSaid(t *testing.T) {
	item := "/items/" + testID(0)
	for err, want := range map[error]string{
		escrow.ErrUnknown: "nothing left of it that could be read", escrow.ErrOver: "it is over", escrow.ErrHeld: "it is on legal hold", fmt.Errorf("hold: %w", escrow.ErrHeld): "it is on legal hold",
	} {
		a := &fakeActions{err: err}
		w := newSite(t, opens(false), withActions(a, true)).post(item+"/hold", url.Values{"note": {"x"}})
		if w.Code != http.StatusConflict || !strings.Contains(text(w.Body.String()), want) {
			t.Errorf("%v: %d %s", err, w.Code, text(w.Body.String()))
		}
	}
	a := &fakeActions{err: errors.New("the disk is full")}
	if w := newSite(t, opens(false), withActions(a, true)).post(item+"/hold", url.Values{"note": {"x"}}); w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), "the disk is full") {
		t.Errorf("%d %s", w.Code, text(w.Body.String()))
	}
	a = &fakeActions{err: escrow.ErrUnknown}
	if w := newSite(t, opens(false), withActions(a, true)).post("/recipients/pat@partner.example/unlock", nil); w.Code != http.StatusConflict {
		t.Errorf("nothing to unlock: %d", w.Code)
	}
	ended := opens(false)
	ended.item.Ended = true
	a = &fakeActions{}
	if code, _ := newSite(t, ended, withActions(a, true)).get(item + "/retract"); code != http.StatusConflict {
		t.Errorf("what is over can be taken back: %d", code)
	}
}
