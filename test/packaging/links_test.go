package packaging

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// mdLink is a link or picture of a Markdown page.
var mdLink = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// checkLinks checks that every link of the installed pages leads to something
// installed.
func checkLinks(t *testing.T, docs string) {
	t.Helper()
	pages, links := 0, 0
	for _, pattern := range []string{"*.md", "doc/*.md"} {
		names, err := filepath.Glob(filepath.Join(docs, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, page := range names {
			b, err := os.ReadFile(page)
			if err != nil {
				t.Error(err)
			}
			pages++
			for _, m := range mdLink.FindAllStringSubmatch(string(b), -1) {
				to, _, _ := strings.Cut(m[1], "#")
				if to == "" || strings.Contains(to, "://") {
					continue
				}
				links++
				if _, err := os.Stat(filepath.Join(filepath.Dir(page), to)); err != nil {
					t.Errorf("%s links to %s, which is not installed", strings.TrimPrefix(page, docs), to)
				}
			}
		}
	}
	if pages < 5 || links < 10 {
		t.Errorf("%d links in %d pages: where are the others?", links, pages)
	}
}
