package host

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// global are the variables of packages that change after the start, and why they may.
var global = map[string]string{
	"passthrough.onCall": "called before each system call while a test has set it",
	"sandbox.fatalCalls": "what the filter that the whole process is under forbids",
	"spawn.spawner":      "a thread of the process, which its children are tied to",
	"vhostuser.touched":  "is only written: it keeps the compiler from leaving a read out",
}

// TestNothingGlobal: packages that shares are made of have no variables that shares would
// have in common.
func TestNothingGlobal(t *testing.T) {
	found := map[string]bool{}
	for _, dir := range []string{"dax", "fuse", "fusedev", "fuseproto", "host", "keeper", "nodes", "passthrough", "sandbox", "server",
		"vhostuser", "virtiofs", "virtqueue", "internal/eventfd", "internal/memfile", "internal/paged", "internal/pause", "internal/record",
		"internal/spawn", "internal/ticks"} {
		err := filepath.WalkDir(filepath.Join("..", dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && d.Name() != "testdata" {
				for name := range changing(t, path) {
					found[filepath.Base(path)+"."+name] = true
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for name := range found {
		if global[name] == "" {
			t.Errorf("%s is a variable of the package that changes: make it part of what a share has, or of a Host", name)
		}
	}
	for name := range global {
		if !found[name] {
			t.Errorf("%s is not there any more", name)
		}
	}
}

// changing are the variables of a package that are made to change (locks, pools, atomics,
// channels), or are assigned to outside of init.
func changing(t *testing.T, dir string) map[string]bool {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	vars, changes := map[string]bool{}, map[string]bool{}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
		for _, d := range f.Decls {
			if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.VAR {
				declared(g, vars, changes)
			}
		}
	}
	for _, f := range files {
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil && (fn.Name.Name != "init" || fn.Recv != nil) {
				assigned(fn, vars, changes)
			}
		}
	}
	delete(changes, "_")
	return changes
}

// declared notes variables, and those whose type or value says that they change.
func declared(g *ast.GenDecl, vars, changes map[string]bool) {
	for _, s := range g.Specs {
		v := s.(*ast.ValueSpec)
		mutable := false
		look := func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncLit:
				return false
			case *ast.ChanType:
				mutable = true
			case *ast.SelectorExpr:
				if p, ok := n.X.(*ast.Ident); ok && slices.Contains([]string{"sync", "atomic"}, p.Name) {
					mutable = true
				}
			}
			return true
		}
		if v.Type != nil {
			ast.Inspect(v.Type, look)
		}
		for _, e := range v.Values {
			ast.Inspect(e, look)
		}
		for _, name := range v.Names {
			vars[name.Name] = true
			if mutable {
				changes[name.Name] = true
			}
		}
	}
}

// assigned notes the variables that a function changes.
func assigned(fn *ast.FuncDecl, vars, changes map[string]bool) {
	own := map[string]bool{} // names that the function declares
	note := func(e ast.Expr, in map[string]bool) {
		for {
			switch x := e.(type) {
			case *ast.IndexExpr:
				e = x.X
				continue
			case *ast.SelectorExpr:
				e = x.X
				continue
			case *ast.Ident:
				if in != nil {
					in[x.Name] = true
				} else if vars[x.Name] && !own[x.Name] {
					changes[x.Name] = true
				}
			}
			return
		}
	}
	ast.Inspect(fn, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Field:
			for _, name := range n.Names {
				own[name.Name] = true
			}
		case *ast.ValueSpec:
			for _, name := range n.Names {
				own[name.Name] = true
			}
		case *ast.RangeStmt:
			note(n.Key, own)
			note(n.Value, own)
		case *ast.AssignStmt:
			for _, e := range n.Lhs {
				if n.Tok == token.DEFINE {
					note(e, own)
				} else {
					note(e, nil)
				}
			}
		case *ast.IncDecStmt:
			note(n.X, nil)
		}
		return true
	})
}
