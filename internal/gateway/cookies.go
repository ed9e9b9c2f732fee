package gateway

import (
	"net/http"
	"strings"
	"time"
)

const (
	accessCookie  = "dongne_access"
	refreshCookie = "dongne_refresh"
	hostPrefix    = "__Host-" // under TLS: the browser takes such a cookie from this very host alone, with Secure and Path=/

	// cookieLife is how long browsers keep the cookies: as long as a refresh token is good.
	cookieLife = 30 * 24 * time.Hour
)

// cookieName is the name of one of the gateway's cookies under a scheme.
func cookieName(cookie string, secure bool) string {
	if secure {
		return hostPrefix + cookie
	}
	return cookie
}

// ownCookie says whether a cookie is the gateway's, under whatever scheme.
func ownCookie(name string) bool {
	name = strings.TrimPrefix(name, hostPrefix)
	return name == accessCookie || name == refreshCookie
}

// takeCookies takes the session's cookies out of a request, of whatever scheme, and leaves all others as they came. It
// returns those of the request's scheme; of two by one name the first, which is the one with the longest path.
func takeCookies(r *http.Request) (access, refresh string) {
	var left []string
	found := false
	accessName, refreshName := cookieName(accessCookie, secure(r)), cookieName(refreshCookie, secure(r))
	for _, line := range r.Header["Cookie"] {
		if !strings.Contains(line, "dongne_") {
			left = append(left, line)
			continue
		}
		var kept []string
		for part := range strings.SplitSeq(line, ";") {
			name, value, _ := strings.Cut(strings.Trim(part, " \t"), "=")
			switch name = strings.Trim(name, " \t"); {
			case !ownCookie(name):
				kept = append(kept, strings.Trim(part, " \t"))
				continue
			case name == accessName && access == "":
				access = value
			case name == refreshName && refresh == "":
				refresh = value
			}
			found = true
		}
		if len(kept) > 0 {
			left = append(left, strings.Join(kept, "; "))
		}
	}
	switch {
	case !found:
	case len(left) == 0:
		r.Header.Del("Cookie")
	default:
		r.Header["Cookie"] = left
	}
	return access, refresh
}

// setCookies gives the browser a session's cookies. No cache may keep the answer.
func setCookies(w http.ResponseWriter, r *http.Request, p pair) {
	putCookie(w, r, accessCookie, p.Access, int(cookieLife/time.Second))
	putCookie(w, r, refreshCookie, p.Refresh, int(cookieLife/time.Second))
}

// clearCookies has the browser forget them.
func clearCookies(w http.ResponseWriter, r *http.Request) {
	putCookie(w, r, accessCookie, "", -1)
	putCookie(w, r, refreshCookie, "", -1)
}

func putCookie(w http.ResponseWriter, r *http.Request, name, value string, seconds int) {
	w.Header().Set("Cache-Control", "no-store")
	http.SetCookie(w, &http.Cookie{Name: cookieName(name, secure(r)), Value: value, Path: "/", MaxAge: seconds,
		HttpOnly: true, Secure: secure(r), SameSite: http.SameSiteLaxMode})
}

// relocateCookies drops what would set the gateway's own cookies, and puts the prefix in front of the others' paths.
func (l *Lane) relocateCookies(h http.Header) {
	lines := h["Set-Cookie"]
	if len(lines) == 0 {
		return
	}
	kept := make([]string, 0, len(lines))
	for _, line := range lines {
		parts := strings.Split(line, ";")
		name, _, _ := strings.Cut(parts[0], "=")
		if ownCookie(strings.Trim(name, " \t")) {
			continue
		}
		for i, part := range parts[1:] {
			attribute, path, _ := strings.Cut(strings.Trim(part, " \t"), "=")
			prefixed := strings.HasPrefix(name, hostPrefix) // its path must be "/"
			if strings.EqualFold(strings.Trim(attribute, " \t"), "path") && strings.HasPrefix(path, "/") && !l.KeepPrefix && !prefixed {
				parts[1+i] = " " + attribute + "=/" + l.Name + path
			}
		}
		kept = append(kept, strings.Join(parts, ";"))
	}
	h["Set-Cookie"] = kept
	if len(kept) == 0 {
		delete(h, "Set-Cookie")
	}
}
