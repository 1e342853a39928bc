package arch

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/postseal/postseal/"

// allowed says which packages of ours a package may depend on, directly or not;
// "x/..." is x and all below it. A package that is not listed falls under the
// nearest entry above it; one with none is an error: decide where it stands.
// cmd stands above all and is not limited.
var allowed = map[string][]string{
	"policyd/policy":      {},
	"policyd":             {"policyd/policy", "internal/accept", "internal/audit"},
	"tlsmap":              {"policyd/policy", "tlsmap/...", "internal/accept", "internal/adminpage"},
	"tlsmap/probe":        {"policyd/policy", "tlsmap/probe/..."},
	"escrow":              {"policyd/policy", "escrow/...", "internal/accept", "internal/audit", "internal/httphost", "internal/relaymail"},
	"sql":                 {"policyd/policy", "tlsmap/...", "escrow/...", "internal/adminlogin", "internal/adminpage", "internal/audit", "internal/httphost", "internal/listing", "internal/relaymail"},
	"contrib/postfix":     {"policyd/policy"},
	"internal/accept":     {},
	"internal/adminpage":  {},
	"internal/adminlogin": {"internal/adminlogin/...", "internal/adminpage", "internal/audit", "escrow/...", "policyd/policy", "internal/accept", "internal/httphost", "internal/relaymail"},
	"internal/adminpages": {"policyd/policy", "escrow/...", "internal/accept", "internal/adminpage", "internal/audit", "internal/listing", "internal/relaymail"},
	"internal/arch":       {},
	"internal/audit":      {},
	"internal/lab":        {"internal/lab/..."},
	"internal/lab/bench":  {"policyd/policy", "tlsmap/...", "escrow/...", "sql", "internal/..."}, // measures the whole
	"internal/httphost":   {},
	"internal/listing":    {"policyd/policy"},
	"internal/relaymail":  {},
}

// sole names who alone may import a package from outside.
var sole = map[string]string{
	"database/sql":                "sql",
	"github.com/pressly/goose/v3": "sql",
	"github.com/mattn/go-sqlite3": "sql",
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset": "escrow", // the key file
}

type pkg struct {
	ImportPath    string
	Imports, Deps []string
}

func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Imports,Deps", module+"...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

func mayImport(rules []string, dep string) bool {
	return slices.ContainsFunc(rules, func(r string) bool {
		tree, ok := strings.CutSuffix(r, "/...")
		return dep == r || ok && (dep == tree || strings.HasPrefix(dep, tree+"/"))
	})
}

// rulesOf returns the nearest entry of allowed.
func rulesOf(name string) (rules []string, ok bool) {
	for name != "" {
		if rules, ok = allowed[name]; ok {
			return rules, true
		}
		i := strings.LastIndexByte(name, '/')
		name = name[:max(i, 0)]
	}
	return nil, false
}

func TestImportsPointDown(t *testing.T) {
	seen := make(map[string]bool)
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		seen[name] = true
		for _, imported := range p.Imports {
			if owner, ok := sole[imported]; ok && name != owner {
				t.Errorf("%s imports %s, which only %s may", name, imported, owner)
			}
		}
		if name == "policyd/policy" {
			for _, io := range []string{"os", "os/exec", "io/fs", "net/http", "log", "log/slog"} {
				if slices.Contains(p.Imports, io) {
					t.Errorf("%s imports %s: it does no I/O", name, io)
				}
			}
		}
		if strings.HasPrefix(name, "cmd/") {
			continue
		}
		rules, ok := rulesOf(name)
		if !ok {
			t.Errorf("%s: nothing says what it may import", name)
			continue
		}
		for _, dep := range p.Deps {
			if dep, ours := strings.CutPrefix(dep, module); ours && dep != name && !mayImport(rules, dep) {
				t.Errorf("%s depends on %s, and may on %v", name, dep, rules)
			}
		}
	}
	for _, name := range []string{"policyd/policy", "policyd", "tlsmap", "tlsmap/probe", "escrow", "sql"} {
		if !seen[name] {
			t.Errorf("go list knows no package %s: the test tests nothing", name)
		}
	}
}
