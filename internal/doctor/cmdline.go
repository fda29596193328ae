package doctor

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// properties are the parts of an option such as "socket,id=c0,path=/run/fs.sock". The
// first part without a name is under "".
type properties map[string]string

// parseProperties reads two forms. One has commas, and a doubled comma is a comma
// in a value. The other one is libvirt's, a JSON object.
func parseProperties(s string) properties {
	p := properties{}
	if strings.HasPrefix(s, "{") {
		var m map[string]any
		if json.Unmarshal([]byte(s), &m) == nil {
			for k, v := range m {
				p[k] = jsonWord(v)
			}
		}
		return p
	}
	const comma = "\x00"
	for i, part := range strings.Split(strings.ReplaceAll(s, ",,", comma), ",") {
		part = strings.ReplaceAll(part, comma, ",")
		name, value, ok := strings.Cut(part, "=")
		switch {
		case ok:
			p[name] = value
		case i == 0:
			p[""] = part
		default:
			p[name] = "on"
		}
	}
	return p
}

// jsonWord is a value as it would be on a command line.
func jsonWord(v any) string {
	switch v := v.(type) {
	case bool:
		if v {
			return "on"
		}
		return "off"
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case string:
		return v
	}
	return fmt.Sprint(v)
}

// first returns the value of the first of these properties that is there.
func (p properties) first(names ...string) string {
	for _, n := range names {
		if v := p[n]; v != "" {
			return v
		}
	}
	return ""
}

func (p properties) number(name string) int {
	n, err := strconv.Atoi(p[name])
	if err != nil {
		return 0
	}
	return n
}

// isOn knows QEMU's words for yes.
func isOn(word string) bool {
	switch word {
	case "on", "yes", "true", "y":
		return true
	}
	return false
}

// options calls f for each option of a command line with a value: the next argument,
// or the text after "=" if the option has one. f must ignore a value that is the next
// option.
func options(args []string, f func(name, value string)) {
	for i, a := range args {
		if !strings.HasPrefix(a, "-") {
			continue
		}
		name, value, ok := strings.Cut(strings.TrimLeft(a, "-"), "=")
		if !ok && i+1 < len(args) {
			value = args[i+1]
		}
		f(name, value)
	}
}

// socketPaths returns the paths of unix sockets on a VMM's command line, of any
// device, as they are written there.
func socketPaths(args []string) (out []string) {
	for _, a := range args {
		if rest, ok := strings.CutPrefix(a, umlDevice); ok {
			path, _, _ := strings.Cut(rest, ":")
			out = append(out, path)
		} else if !strings.HasPrefix(a, "-") {
			out = append(out, pathsOf(a)...)
		}
	}
	options(args, func(name, value string) {
		if name == "vhost-user-fs" { // crosvm before 2024: SOCKET:TAG
			path, _, _ := strings.Cut(value, ":")
			out = append(out, path)
		} else {
			out = append(out, pathsOf(value)...)
		}
	})
	return out
}

// pathsOf returns the paths of sockets in the value of an option: QEMU says path=, with
// addr. before it in its other notation; the others say socket=.
func pathsOf(value string) (out []string) {
	if strings.HasPrefix(value, "{") {
		var m map[string]any
		if json.Unmarshal([]byte(value), &m) == nil {
			out = jsonPaths(m)
		}
		return out
	}
	p := parseProperties(value)
	for _, name := range []string{"path", "addr.path", "socket"} {
		if p[name] != "" {
			out = append(out, p[name])
		}
	}
	return out
}

// jsonPaths looks into objects in objects: QMP has the path of a character device in
// backend.data.addr.data.
func jsonPaths(m map[string]any) (out []string) {
	for k, v := range m {
		switch v := v.(type) {
		case string:
			if k == "path" || k == "socket" {
				out = append(out, v)
			}
		case map[string]any:
			out = append(out, jsonPaths(v)...)
		}
	}
	return out
}

// parseQEMU reads QEMU's options.
func (v *VMM) parseQEMU(args []string) {
	sockets := map[string]string{} // by chardev
	shared, kind := map[string]bool{}, map[string]string{}
	var used, devices []string
	options(args, func(name, value string) {
		p := parseProperties(value)
		switch name {
		case "m":
			v.Memory = p.first("size", "")
		case "smp":
			v.CPUs = max(p.number("cpus"), p.number(""))
		case "object":
			if t := p.first("qom-type", ""); strings.HasPrefix(t, "memory-backend-") {
				kind[p["id"]], shared[p["id"]] = t, sharesMemory(t, p["share"])
			}
		case "numa":
			used = append(used, p["memdev"])
		case "machine", "M":
			used = append(used, p["memory-backend"])
		case "overcommit":
			v.Locks = v.Locks || isOn(p["mem-lock"])
		case "realtime":
			v.Locks = v.Locks || isOn(p["mlock"])
		case "chardev":
			sockets[p["id"]] = p["path"]
		case "device":
			devices = append(devices, value)
		}
	})
	for _, d := range devices {
		v.addQEMUDevice(parseProperties(d), sockets)
	}
	v.Shared = false
	for _, id := range used {
		if kind[id] == "" {
			continue
		}
		// One part of the memory that is not shared is enough for a failure.
		if v.Backend == "" || !shared[id] {
			v.Backend, v.Shared = kind[id], shared[id]
		}
	}
}

// sharesMemory reports whether other processes can map a backend's memory.
func sharesMemory(kind, share string) bool {
	if share == "" { // backends/hostmem-memfd.c, hostmem-shm.c: share is their default
		return kind == "memory-backend-memfd" || kind == "memory-backend-shm"
	}
	return isOn(share)
}

func (v *VMM) addQEMUDevice(p properties, sockets map[string]string) {
	driver := p.first("driver", "")
	d := FSDevice{Tag: p["tag"], Socket: sockets[p["chardev"]]}
	switch {
	case strings.HasPrefix(driver, "vhost-user-fs"):
		d.Queues, d.QueueSize = p.number("num-request-queues"), p.number("queue-size")
	case strings.HasPrefix(driver, "vhost-user-test-device"), strings.HasPrefix(driver, "vhost-user-device"):
		if p["virtio-id"] != "26" {
			return
		}
		d.Queues, d.QueueSize = max(p.number("num_vqs")-1, 0), p.number("vq_size")
		d.Generic = true
	default:
		return
	}
	v.Devices = append(v.Devices, d)
}

// parseCloudHypervisor reads cloud-hypervisor's options; --fs takes several values.
func (v *VMM) parseCloudHypervisor(args []string) {
	inFS := false
	for _, a := range args {
		if strings.HasPrefix(a, "-") {
			rest, glued := strings.CutPrefix(a, "--fs=")
			inFS = glued || a == "--fs"
			if !glued {
				continue
			}
			a = rest
		}
		if inFS {
			p := parseProperties(a)
			v.Devices = append(v.Devices, FSDevice{
				Tag: p["tag"], Socket: p["socket"], Queues: p.number("num_queues"), QueueSize: p.number("queue_size"),
			})
		}
	}
	options(args, func(name, value string) {
		p := parseProperties(value)
		switch name {
		case "memory":
			v.Memory, v.Shared = p["size"], isOn(p["shared"])
		case "cpus":
			v.CPUs = p.number("boot")
		}
	})
}

// umlDevice is what User-Mode Linux has on its command line before SOCKET:ID.
const umlDevice = "virtio_uml.device="

// parseTagged reads the devices of VMMs that ask the daemon for the share's name.
func (v *VMM) parseTagged(args []string) {
	for _, a := range args {
		if rest, ok := strings.CutPrefix(a, umlDevice); ok {
			path, id, _ := strings.Cut(rest, ":")
			if id == "26" || strings.HasPrefix(id, "26:") {
				v.Devices = append(v.Devices, FSDevice{Socket: path})
			}
		}
	}
	options(args, func(name, value string) {
		p := parseProperties(value)
		if name == "vhost-user" && (p["type"] == "fs" || p[""] == "fs") {
			v.Devices = append(v.Devices, FSDevice{Socket: p["socket"]})
		}
		if name == "vhost-user-fs" { // crosvm before 2024: SOCKET:TAG
			socket, _, _ := strings.Cut(p[""], ":")
			v.Devices = append(v.Devices, FSDevice{Socket: socket})
		}
		if name == "cpus" || name == "c" {
			v.CPUs = max(p.number("num-cores"), p.number(""))
		}
	})
}
