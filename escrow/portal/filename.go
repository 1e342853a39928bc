package portal

import (
	"fmt"
	"net/url"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxFilename is the length of a name, in bytes: file systems take 255.
const maxFilename = 150

// filename makes a declared name fit for any file system: no directories, no
// control or direction-turning characters, nothing that Windows forbids, and not
// hidden. Without a name one is made of the type.
func filename(declared, mediaType string, n int) string {
	name := clean(declared)
	name = name[strings.LastIndexAny(name, `/\`)+1:]
	name = strings.Map(func(r rune) rune {
		switch {
		case strings.ContainsRune(`<>:"|?*%`, r):
			return '_'
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsGraphic(r):
			return -1
		}
		return r
	}, name)
	name = strings.Trim(name, " .")
	if name == "" {
		kind := "attachment"
		if mediaType == "message/rfc822" {
			kind = "message"
		}
		name = fmt.Sprintf("%s-%d%s", kind, n, extension(mediaType))
	}
	if stem, _, _ := strings.Cut(name, "."); reserved(stem) {
		name = "_" + name
	}
	if len(name) > maxFilename {
		ext := path.Ext(name)
		if len(ext) > 16 {
			ext = ""
		}
		stem := name[:maxFilename-len(ext)]
		for !utf8.ValidString(stem) {
			stem = stem[:len(stem)-1]
		}
		name = strings.TrimRight(stem, " .") + ext
	}
	return name
}

// reserved reports the names that are devices on Windows.
func reserved(stem string) bool {
	switch s := strings.ToUpper(strings.TrimSpace(stem)); {
	case s == "CON", s == "PRN", s == "AUX", s == "NUL":
		return true
	case len(s) == 4 && (strings.HasPrefix(s, "COM") || strings.HasPrefix(s, "LPT")):
		return s[3] >= '0' && s[3] <= '9'
	}
	return false
}

// extension is the usual one of a type.
func extension(mediaType string) string {
	switch mediaType {
	case "text/plain", "message/delivery-status", "message/disposition-notification", "message/global-delivery-status", "text/rfc822-headers":
		return ".txt"
	case "application/pkcs7-mime", "application/x-pkcs7-mime":
		return ".p7m"
	case "application/pkcs7-signature", "application/x-pkcs7-signature":
		return ".p7s"
	case "application/pgp-signature":
		return ".asc"
	case "text/html":
		return ".html"
	case "text/calendar":
		return ".ics"
	case "text/vcard":
		return ".vcf"
	case "message/rfc822":
		return ".eml"
	case "application/pdf":
		return ".pdf"
	case "image/jpeg":
		return ".jpg"
	case "image/png":
		return ".png"
	case "image/gif":
		return ".gif"
	case "image/webp":
		return ".webp"
	case "application/zip":
		return ".zip"
	}
	return ".bin"
}

// contentDisposition writes the header field that makes a download of an answer
// (RFC 6266): the name in ASCII for old browsers, and as it is (RFC 8187).
func contentDisposition(name string) string {
	fallback := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || strings.ContainsRune(`"\%`, r) {
			return '_'
		}
		return r
	}, name)
	s := `attachment; filename="` + fallback + `"`
	if fallback != name {
		// PathEscape leaves some characters that RFC 8187's attr-char does not have.
		s += "; filename*=UTF-8''" + strings.NewReplacer(
			":", "%3A", "=", "%3D", "@", "%40", "(", "%28", ")", "%29", ",", "%2C", ";", "%3B", "'", "%27", "*", "%2A", "[", "%5B", "]", "%5D",
		).Replace(url.PathEscape(name))
	}
	return s
}

// downloadType is the type that a download is served with. Only types that no
// browser runs anything of keep theirs, so that a phone finds the right program;
// all others are just bytes.
func downloadType(mediaType string) string {
	switch mediaType {
	case "application/pdf", "application/zip", "application/rtf",
		"application/msword", "application/vnd.ms-excel", "application/vnd.ms-powerpoint",
		"application/vnd.openxmlformats-officedocument.wordprocessingml.document",
		"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
		"application/vnd.openxmlformats-officedocument.presentationml.presentation",
		"application/vnd.oasis.opendocument.text", "application/vnd.oasis.opendocument.spreadsheet",
		"application/dicom", "image/jpeg", "image/png", "image/gif", "image/webp", "image/heic", "image/tiff",
		"audio/mpeg", "audio/mp4", "audio/ogg", "video/mp4", "video/quicktime", "text/plain", "text/calendar", "text/vcard":
		return mediaType
	}
	return "application/octet-stream"
}
