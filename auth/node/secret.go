package node

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"dongne/auth/realm"
)

// A sealed secret begins with one of these.
const (
	openMark   = 0 // the secret itself follows
	sealedMark = 1 // a nonce and the AES-256-GCM ciphertext follow, with the label as additional data
)

// sealer keeps secrets of the node itself.
type sealer struct {
	aead   cipher.AEAD // nil: they lie open
	random io.Reader
}

func newSealer(secret []byte, random io.Reader) (sealer, error) {
	if secret == nil {
		return sealer{nil, random}, nil
	}
	aead, err := aeadOf(secret, "dongne auth secrets 1")
	return sealer{aead, random}, err
}

func aeadOf(secret []byte, label string) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, secret, nil, label, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func (s sealer) seal(label string, secret []byte) []byte {
	if s.aead == nil {
		return append([]byte{openMark}, secret...)
	}
	nonce := make([]byte, s.aead.NonceSize())
	if _, err := io.ReadFull(s.random, nonce); err != nil {
		panic("auth: no randomness: " + err.Error())
	}
	return s.aead.Seal(append([]byte{sealedMark}, nonce...), nonce, secret, []byte(label))
}

var errSealed = errors.New("AUTH_KEY: it is not the key under which this secret was sealed")

func (s sealer) open(label string, sealed []byte) ([]byte, error) {
	switch {
	case len(sealed) > 0 && sealed[0] == openMark:
		return sealed[1:], nil
	case len(sealed) < 1 || sealed[0] != sealedMark:
		return nil, fmt.Errorf("auth: %s: not a sealed secret", label)
	case s.aead == nil:
		return nil, errors.New("AUTH_KEY: it is empty, but secrets were sealed under one")
	case len(sealed) < 1+s.aead.NonceSize():
		return nil, errSealed
	}
	nonce, text := sealed[1:1+s.aead.NonceSize()], sealed[1+s.aead.NonceSize():]
	secret, err := s.aead.Open(nil, nonce, text, []byte(label))
	if err != nil {
		return nil, errSealed
	}
	return secret, nil
}

const successorLabel = "dongne auth successor 1"

// sealSuccessor seals a refresh token under the token that it succeeds.
func (n *Node) sealSuccessor(before string, successor realm.Token) []byte {
	aead, err := aeadOf([]byte(before), successorLabel)
	if err != nil {
		panic("auth: " + err.Error())
	}
	nonce := make([]byte, aead.NonceSize()) // random: of two who refresh at once, both texts come into the log
	n.random(nonce)
	return aead.Seal(nonce, nonce, successor[:], nil)
}

// openSuccessor is the reverse. The error means that the log was tampered with.
func openSuccessor(before string, sealed []byte) (realm.Token, error) {
	aead, err := aeadOf([]byte(before), successorLabel)
	if err != nil {
		return realm.Token{}, err
	}
	if len(sealed) < aead.NonceSize() {
		return realm.Token{}, errors.New("auth: a successor of no length")
	}
	text, err := aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], nil)
	if err != nil || len(text) != len(realm.Token{}) {
		return realm.Token{}, errors.New("auth: a successor that was sealed otherwise")
	}
	return realm.Token(text), nil
}
