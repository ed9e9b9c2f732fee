package room

import "fmt"

// A Body is what a request says beside its path.
type Body interface {
	// Fill puts the body into the fact, or says what is wrong with it.
	Fill(*Fact) error
}

// The bodies, as JSON.
type (
	// CreateBody asks for a room. The caller is a member in any case.
	CreateBody struct {
		Kind    RoomKind `json:"kind"`
		Name    string   `json:"name"`
		Members []string `json:"members"`
	}
	// RenameBody gives a room another name.
	RenameBody struct {
		Name string `json:"name"`
	}
	// MemberBody adds a user to a room.
	MemberBody struct {
		User string `json:"user"`
	}
	// MessageBody is a new message.
	MessageBody struct {
		Text        string       `json:"text"`
		ReplyTo     ID           `json:"reply_to"`
		Attachments []Attachment `json:"attachments"`
	}
	// EditBody is a message's new text.
	EditBody struct {
		Text string `json:"text"`
	}
	// ReadBody says up to which message the caller has read.
	ReadBody struct {
		Message ID `json:"message"`
	}
	// NoBody is for requests whose path says all.
	NoBody struct{}
)

const userBytesMax = 64

func (b CreateBody) Fill(f *Fact) error {
	switch b.Kind {
	case Direct, Group, Channel:
	default:
		return fmt.Errorf("%w: kind: %q is not direct, group or channel", ErrInvalid, b.Kind)
	}
	f.RoomKind, f.Name, f.Members = b.Kind, b.Name, []string{f.By}
	known := map[string]bool{f.By: true}
	for i, name := range b.Members {
		if err := checkUser(fmt.Sprintf("members[%d]", i), name); err != nil {
			return err
		}
		if !known[name] {
			known[name] = true
			f.Members = append(f.Members, name)
		}
	}
	return nil
}

func (b RenameBody) Fill(f *Fact) error {
	f.Name = b.Name
	return nil
}

func (b MemberBody) Fill(f *Fact) error {
	f.Target = b.User
	return checkUser("user", b.User)
}

func (b MessageBody) Fill(f *Fact) error {
	f.Text, f.ReplyTo, f.Attachments = b.Text, b.ReplyTo, b.Attachments
	return checkContent(f.Text, f.Attachments)
}

func (b EditBody) Fill(f *Fact) error {
	f.Text = b.Text
	return nil
}

func (NoBody) Fill(f *Fact) error {
	if f.Target == "" {
		return nil
	}
	return checkUser("user", f.Target)
}

func checkUser(field, name string) error {
	valid := 1 <= len(name) && len(name) <= userBytesMax
	for i := 0; valid && i < len(name); i++ {
		c := name[i]
		valid = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-'
	}
	if !valid {
		return fmt.Errorf("%w: %s: %q is not a user's name (1 to %d of A-Z, a-z, 0-9, '.', '_', '-')", ErrInvalid, field, name, userBytesMax)
	}
	return nil
}
