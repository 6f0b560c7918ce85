package gate

import (
	"fmt"

	"github.com/millrace/millrace/platform/contract"
)

// pins returns what became of the types of other subjects that the folder's schemas use: one finding for each event that uses one.
func (d *Folder) pins(old Old) []Finding {
	var found []Finding
	for i, is := range d.Pinned.Pins {
		for _, was := range old.Pins {
			if was.Name != is.Name {
				continue
			}
			var message, fix string
			switch {
			case was.Subject != is.Subject || was.Version != is.Version:
				message = fmt.Sprintf("the type is pinned to %s, and was to %s: the event changes with it", is, was)
				fix = "keep the pin, or allow the finding once breaking has nothing else to say about the event"
			case was.Text == "":
				message, fix = fmt.Sprintf("%s is not there", is), "pin a version that is registered"
			case !SameText(was.Text, d.Pinned.Texts[i]):
				message, fix = fmt.Sprintf("the copy in references differs from %s, and versions never change", is), "restore the copy, or pin the version that it is of"
			default:
				continue
			}
			found = append(found, d.whereUsed(is, old.Where, message, fix)...)
		}
	}
	return found
}

// whereUsed returns the finding for each event that uses a pinned type, at its first use; for contracts.yaml if there is none.
func (d *Folder) whereUsed(pin contract.Reference, against, message, fix string) []Finding {
	var found []Finding
	for _, files := range [][]File{d.Files, d.Retired} {
		for _, f := range files {
			for _, used := range f.Uses {
				if used == pin {
					found = append(found, f.at("REFERENCE_VERSION_CHANGED", Error, firstUse(f.Schema.Shape(), pin.Name, map[*contract.Shape]bool{}), message))
				}
			}
		}
	}
	if found == nil {
		found = []Finding{d.inSettings("REFERENCE_VERSION_CHANGED", pin.Name, message)}
	}
	for i := range found {
		found[i].Name, found[i].Against, found[i].Fix = pin.Name, against, fix
	}
	return found
}

// firstUse returns the pointer to where a text names the type; "" if it uses only what that type's text defines beside it.
func firstUse(n *contract.Shape, name string, seen map[*contract.Shape]bool) string {
	if n == nil || seen[n] {
		return ""
	}
	seen[n] = true
	if n.Name == name {
		return n.Pointer
	}
	for _, f := range n.Fields {
		if p := firstUse(f.Type, name, seen); p != "" {
			return p
		}
	}
	for _, b := range n.Branches {
		if p := firstUse(b, name, seen); p != "" {
			return p
		}
	}
	return firstUse(n.Items, name, seen)
}

// key returns a finding if the records' keys have another schema than they had.
func (d *Folder) key(old Old) []Finding {
	if old.Key == nil || SameText(*old.Key, d.Settings.Key) {
		return nil
	}
	was, is := keyName(*old.Key), keyName(d.Settings.Key)
	if was == is {
		is += " with another text"
	}
	f := d.inSettings("KEY_SCHEMA_CHANGED", "key:", fmt.Sprintf("keys were %s and are %s: the same key gets other bytes, and another partition", was, is))
	f.Pointer, f.Subject, f.Against, f.Fix = "/key", contract.KeySubject(d.Settings.Topic), old.Where, "keep the key's schema; other keys need another topic"
	return []Finding{f}
}

func keyName(text string) string {
	if text == "" {
		return "plain strings without a schema"
	}
	s, err := contract.ParseLenient(text)
	if err != nil {
		return "of a schema that cannot be read"
	}
	if n := s.Shape(); n.Name != "" {
		return n.Kind + "s " + n.Name
	}
	return TypeName(s.Shape()) + "s in Avro"
}

// SameText reports whether two schema texts differ in their layout at most.
func SameText(a, b string) bool {
	if a == b {
		return true
	}
	x, err1 := contract.Normalize(a)
	y, err2 := contract.Normalize(b)
	return err1 == nil && err2 == nil && x == y
}
