"""The faults of the real storage service, by name: each is played while it is among the service's hazards."""

from __future__ import annotations

RANGES_IGNORED = "ranges-ignored"  #: `Range` and conditional headers have no effect
PAGES_IGNORED = "pages-ignored"  #: every limit but 0 is ignored, and resuming a listing is a 400
NAMES = "names"  #: blanks and brackets are 500s, `#` and `?` end a name, `%` is decoded twice
MD5_FORMS = "md5-forms"  #: an overwrite stores `md5:HEX`, and an update of properties that names the MD5 loses it
EMPTY_NODES = "empty-nodes"  #: a refused, cut or merely negotiated upload leaves an empty file
TRUNCATES_FIRST = "truncates-first"  #: an upload with a wrong checksum destroys the old content, and keeps its MD5
QUOTA_CLOSES = "quota-closes"  #: a large upload beyond the quota is refused in its middle, and the connection closed
LATIN_TRANSFERS = "latin-transfers"  #: transfer documents are ISO-8859-1, although they say UTF-8
FULL_TRANSFERS = "full-transfers"  #: moves are offered only in the form that vosfs does not use
NO_PREAUTH = "no-preauth"  #: no pre-authorised addresses, as with OIDC tokens: vosfs cannot transfer then

#: the faults of the service as it was recorded with tokens and certificates
CAVERN = frozenset(
    {RANGES_IGNORED, PAGES_IGNORED, NAMES, MD5_FORMS, EMPTY_NODES, TRUNCATES_FIRST, QUOTA_CLOSES}
    | {LATIN_TRANSFERS, FULL_TRANSFERS}
)
#: the same with OpenID tokens only
CAVERN_OIDC = CAVERN | {NO_PREAUTH}
STORAGE_FAULTS = CAVERN_OIDC  #: all of them
