package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"
)

// shells are those that printCompletion knows.
var shells = []string{"bash", "zsh", "fish"}

// valueKind is what a shell can offer for an option's value.
type valueKind int

const (
	noValue valueKind = iota
	anyValue
	wordValue // one of completionOption.words
	dirValue
	fileValue
	groupValue
)

// completionOption is an option as shells see it.
type completionOption struct {
	name, short string
	kind        valueKind
	words       []string
	bare        bool // may stand without its value, which then needs "="
	repeats     bool
	text        string // the first sentence of its explanation
}

// completionOptions lists the options of the help text.
func completionOptions() (out []completionOption) {
	for _, g := range new(options).groups() {
		g.flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				out = append(out, describeOption(f))
			}
		})
	}
	return out
}

func describeOption(f *pflag.Flag) completionOption {
	o := completionOption{name: f.Name, short: f.Shorthand, text: f.Usage}
	value := ""
	if rest, ok := strings.CutPrefix(o.text, "`"); ok {
		value, o.text, _ = strings.Cut(rest, "` ")
	}
	o.text, _, _ = strings.Cut(o.text, ". ")
	o.text = strings.TrimSuffix(o.text, ".")
	_, o.repeats = f.Value.(pflag.SliceValue)
	o.bare = value != "" && f.NoOptDefVal != ""
	choice, isChoice := f.Value.(*choiceValue)
	switch {
	case isChoice:
		o.kind, o.words = wordValue, choice.words
	case value == "DIR":
		o.kind = dirValue
	case value == "PATH":
		o.kind = fileValue
	case value == "GROUP":
		o.kind = groupValue
	case value != "":
		o.kind = anyValue
	}
	return o
}

// printCompletion writes a completion script. The shell is one of shells.
func printCompletion(w io.Writer, shell string) {
	var b strings.Builder
	switch list := completionOptions(); shell {
	case "bash":
		bashCompletion(&b, list)
	case "zsh":
		zshCompletion(&b, list)
	case "fish":
		fishCompletion(&b, list)
	}
	_, _ = io.WriteString(w, b.String())
}

// bashCompletion takes "=" for a word of its own, as bash's COMP_WORDBREAKS does.
func bashCompletion(b *strings.Builder, list []completionOption) {
	b.WriteString(`# bash completion for govirtiofsd; made by govirtiofsd --completion bash

_govirtiofsd() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} equals=
	COMPREPLY=()
	if [ "$cur" = = ]; then
		cur= equals=1
	elif [ "$prev" = = ]; then
		prev=${COMP_WORDS[COMP_CWORD-2]} equals=1
	fi
	case $prev$equals in
`)
	for _, o := range list {
		pattern := "--" + o.name + "|--" + o.name + "1"
		if o.short != "" {
			pattern = "-" + o.short + "|" + pattern
		}
		if o.bare {
			pattern = "--" + o.name + "1"
		}
		switch o.kind {
		case wordValue:
			fmt.Fprintf(b, "\t%s) mapfile -t COMPREPLY < <(compgen -W '%s' -- \"$cur\"); return ;;\n", pattern, strings.Join(o.words, " "))
		case dirValue:
			fmt.Fprintf(b, "\t%s) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- \"$cur\"); return ;;\n", pattern)
		case fileValue:
			fmt.Fprintf(b, "\t%s) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- \"$cur\"); return ;;\n", pattern)
		case groupValue:
			fmt.Fprintf(b, "\t%s) mapfile -t COMPREPLY < <(compgen -g -- \"$cur\"); return ;;\n", pattern)
		case anyValue:
			fmt.Fprintf(b, "\t%s) return ;;\n", pattern)
		}
	}
	var names []string
	for _, o := range list {
		names = append(names, "--"+o.name)
	}
	fmt.Fprintf(b, `	esac
	[ -n "$equals" ] || mapfile -t COMPREPLY < <(compgen -W '%s' -- "$cur")
}
complete -F _govirtiofsd govirtiofsd
`, strings.Join(names, " "))
}

func zshCompletion(b *strings.Builder, list []completionOption) {
	b.WriteString("#compdef govirtiofsd\n# Made by govirtiofsd --completion zsh.\n\n_arguments -S \\\n")
	escape := strings.NewReplacer("'", `'\''`, "[", `\[`, "]", `\]`, ":", `\:`)
	for _, o := range list {
		name, value := "--"+o.name, ""
		switch {
		case o.bare:
			name, value = name+"=-", "::value:"
		case o.kind != noValue:
			name, value = name+"=", ":value:"
		}
		switch o.kind {
		case wordValue:
			value += "(" + strings.Join(o.words, " ") + ")"
		case dirValue:
			value += "_files -/"
		case fileValue:
			value += "_files"
		case groupValue:
			value += "_groups"
		}
		rest := "[" + escape.Replace(o.text) + "]" + value
		switch {
		case o.short != "" && o.kind == noValue:
			fmt.Fprintf(b, "\t'(-%s --%s)'{-%s,%s}'%s' \\\n", o.short, o.name, o.short, name, rest)
		case o.short != "":
			fmt.Fprintf(b, "\t'*'{-%s+,%s}'%s' \\\n", o.short, name, rest)
		case o.repeats:
			fmt.Fprintf(b, "\t'*%s%s' \\\n", name, rest)
		default:
			fmt.Fprintf(b, "\t'%s%s' \\\n", name, rest)
		}
	}
	b.WriteString("\t&& return 0\n")
}

func fishCompletion(b *strings.Builder, list []completionOption) {
	b.WriteString("# fish completion for govirtiofsd; made by govirtiofsd --completion fish\n\ncomplete -c govirtiofsd -f\n")
	quote := strings.NewReplacer(`\`, `\\`, "'", `\'`)
	for _, o := range list {
		fmt.Fprintf(b, "complete -c govirtiofsd -l %s", o.name)
		if o.short != "" {
			fmt.Fprintf(b, " -s %s", o.short)
		}
		if o.kind != noValue && o.kind != fileValue && !o.bare {
			b.WriteString(" -x")
		}
		switch o.kind {
		case wordValue:
			fmt.Fprintf(b, " -a '%s'", strings.Join(o.words, " "))
		case dirValue:
			b.WriteString(" -a '(__fish_complete_directories)'")
		case fileValue:
			b.WriteString(" -r -F")
		case groupValue:
			b.WriteString(" -a '(__fish_complete_groups)'")
		}
		fmt.Fprintf(b, " -d '%s'\n", quote.Replace(o.text))
	}
}
