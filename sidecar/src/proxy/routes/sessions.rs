//! Session table: what the sidecar keeps of a server's sessions, by their `Mcp-Session-Id` or, with legacy SSE, by the endpoint
//! that their stream announced. It is bounded and in memory only; whoever uses it does without what it has forgotten.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use hashlink::LruCache;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use mcp_auth_protocol::sync::Transport;
use parking_lot::Mutex;

use crate::proxy::user_context::Allowlist;

/// Names the session of a request to an MCP server with streamable HTTP.
pub const SESSION_HEADER: HeaderName = HeaderName::from_static("mcp-session-id");

/// Sessions of one server that are kept; beyond, the one that was used least recently goes.
const MAX_SESSIONS: usize = 2048;
/// Longest identifier that is kept. Those of the official SDKs have 32 to 36 bytes, and paths up to some 100 with them.
const MAX_ID_BYTES: usize = 512;

/// Cookies by which load balancers keep a client at one of several servers (session affinity): of AWS, Azure (App Service,
/// Application Gateway, Front Door), Google Cloud (external, and regional and internal), Cloudflare, HAProxy, ingress-nginx and
/// nginx.
const AFFINITY_COOKIES: [&[u8]; 18] = [
    b"AWSALB",
    b"AWSALBCORS",
    b"AWSALBTG",
    b"AWSALBTGCORS",
    b"AWSELB",
    b"AWSELBCORS",
    b"ARRAffinity",
    b"ARRAffinitySameSite",
    b"ApplicationGatewayAffinity",
    b"ApplicationGatewayAffinityCORS",
    b"ASLBSA",
    b"ASLBSACORS",
    b"GCILB",
    b"GCLB",
    b"INGRESSCOOKIE",
    b"SERVERID",
    b"__cflb",
    b"route",
];
/// How others begin: AWS' for a cookie of the application's, and F5's.
const AFFINITY_PREFIXES: [&[u8]; 2] = [b"AWSALBAPP-", b"BIGipServer"];
/// Such cookies of one session, and the longest of them with its name. AWS' have about 200 bytes.
const MAX_COOKIES: usize = 8;
const MAX_COOKIE_BYTES: usize = 1024;
/// Names of other cookies that were logged, of one server.
const MAX_OTHER_NAMES: usize = 16;
/// Longest of them.
const MAX_NAME_BYTES: usize = 64;

/// What names a session at its server.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct SessionId(HeaderValue);

/// What the stream of a session with legacy SSE brings before it names the session.
#[derive(Debug, Default)]
pub struct OpeningStream {
    /// It was opened for no user where the server demands one.
    pub is_nobodys: bool,
    /// `Set-Cookie` of the answer.
    pub set_cookies: Vec<HeaderValue>,
}

/// Which cookies of a server are its load balancer's, beside those that are known.
#[derive(Clone, Copy)]
pub struct AffinityNames<'a> {
    /// As the resource names them.
    pub further: &'a [Box<str>],
    /// Those of users, which are none, whatever they are called.
    pub users: &'a Allowlist,
}

/// The sessions of one server.
pub struct Sessions {
    sessions: Mutex<LruCache<Box<[u8]>, Session>>,
    /// Whether any session ever had a cookie: most servers have none, and are spared the search.
    have_cookies: AtomicBool,
    /// Names of cookies that are none of a load balancer's that is known.
    other_names: Mutex<BTreeSet<Box<[u8]>>>,
}

#[derive(Default)]
struct Session {
    /// It was opened for no user where the server demands one, as discovery does.
    is_nobodys: bool,
    /// It was opened for a user as well: with legacy SSE, where all streams announce the same endpoint.
    is_users: bool,
    /// `NAME=VALUE` of a load balancer before the server.
    affinity_cookies: Vec<Box<[u8]>>,
}

impl SessionId {
    /// That of a request to `path` at the server, if it is in one.
    pub fn of_request(transport: Transport, headers: &HeaderMap, path: &PathAndQuery) -> Option<Self> {
        match transport {
            Transport::StreamableHttp => headers.get(SESSION_HEADER).cloned().map(Self),
            Transport::Sse => Some(Self::of_endpoint(path.as_str())),
        }
    }

    /// That of an SSE stream, by path and query of the endpoint that it announced. One more slash at the end of the path does
    /// not matter: many servers redirect there.
    pub fn of_endpoint(path_and_query: &str) -> Self {
        let (path, query) = match path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path_and_query, None),
        };
        let path = path.strip_suffix('/').unwrap_or(path);
        let parts = [path, query.map_or("", |_| "?"), query.unwrap_or_default()];
        // Of what no header holds none is made. An empty one is not kept.
        let id = HeaderValue::try_from(parts.concat());
        Self(id.unwrap_or_else(|_| HeaderValue::from_static("")))
    }

    /// That which an answer over streamable HTTP opens.
    pub fn of_answer(headers: &HeaderMap) -> Option<Self> {
        headers.get(SESSION_HEADER).cloned().map(Self)
    }
}

impl Sessions {
    /// Records that the session was opened for no user.
    pub fn record_nobodys(&self, id: &SessionId) {
        self.change(id, |session| session.is_nobodys = true);
    }

    /// Records what the stream of a session brought that has now named it.
    pub fn record_stream(&self, id: &SessionId, stream: &OpeningStream, names: AffinityNames<'_>) {
        self.change(id, |session| match stream.is_nobodys {
            true => session.is_nobodys = true,
            false => session.is_users = true,
        });
        self.record_affinity_cookies(id, stream.set_cookies.iter(), names);
    }

    /// Takes up the cookies of a load balancer from an answer within the session.
    pub fn record_affinity_cookies<'a>(
        &self,
        id: &SessionId,
        set_cookies: impl Iterator<Item = &'a HeaderValue>,
        names: AffinityNames<'_>,
    ) {
        let is_users = |name: &[u8]| names.users.cookie(name);
        for set_cookie in set_cookies {
            let Some((pair, name, is_removed)) = affinity_cookie(set_cookie.as_bytes(), names.further) else {
                if !is_users(cookie_name(set_cookie.as_bytes()).trim_ascii()) {
                    self.log_other_name(set_cookie.as_bytes());
                }
                continue;
            };
            if is_users(name) {
                continue;
            }
            self.have_cookies.store(true, Ordering::Relaxed);
            self.change(id, |session| {
                let cookies = &mut session.affinity_cookies;
                cookies.retain(|cookie| cookie_name(cookie) != name);
                if !is_removed && cookies.len() < MAX_COOKIES {
                    cookies.push(pair.into());
                }
            });
        }
    }

    /// The cookies of the load balancer for a request within the session, as a `Cookie` header has them.
    pub fn affinity_cookies(&self, id: &SessionId) -> Option<Vec<u8>> {
        if !self.have_cookies.load(Ordering::Relaxed) {
            return None;
        }
        let mut sessions = self.sessions.lock();
        let cookies = &sessions.get(id.0.as_bytes())?.affinity_cookies;
        (!cookies.is_empty()).then(|| cookies.join(&b"; "[..]))
    }

    /// Whether the session is known to have been opened for no user.
    pub fn is_nobodys(&self, id: &SessionId) -> bool {
        let mut sessions = self.sessions.lock();
        sessions
            .get(id.0.as_bytes())
            .is_some_and(|session| session.is_nobodys && !session.is_users)
    }

    /// Says once that a cookie of the server's is not kept: it may be a load balancer's that is not known. The name alone, and
    /// only what every name is made of.
    fn log_other_name(&self, set_cookie: &[u8]) {
        let name = cookie_name(set_cookie).trim_ascii();
        let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.iter().all(is_name) {
            return;
        }
        let mut names = self.other_names.lock();
        if names.len() < MAX_OTHER_NAMES && !names.contains(name) {
            names.insert(name.into());
            let cookie = String::from_utf8_lossy(name);
            tracing::info!(
                %cookie,
                "an MCP server sets a cookie within a session that is not one of a known load balancer: it is not kept; if it is a load balancer's, spec.server.affinityCookies has it kept"
            );
        }
    }

    fn change(&self, id: &SessionId, change: impl FnOnce(&mut Session)) {
        let id = id.0.as_bytes();
        if id.is_empty() || id.len() > MAX_ID_BYTES {
            return;
        }
        let mut sessions = self.sessions.lock();
        match sessions.get_mut(id) {
            Some(session) => change(session),
            None => {
                let mut session = Session::default();
                change(&mut session);
                sessions.insert(id.into(), session);
            }
        }
    }
}

/// Pair and name of a load balancer's cookie, and whether the server takes it back, in a `Set-Cookie` field (RFC 6265 section
/// 5.2). Its other attributes do not matter: it goes to the URL that it came from, as long as the session lasts.
fn affinity_cookie<'a>(set_cookie: &'a [u8], further: &[Box<str>]) -> Option<(&'a [u8], &'a [u8], bool)> {
    let mut parts = set_cookie.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let pair = parts.next()?;
    let name = cookie_name(pair);
    let is_known = AFFINITY_COOKIES.contains(&name)
        || AFFINITY_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || further.iter().any(|further| further.as_bytes() == name);
    let has_value = pair.len() > name.len() + 1;
    let is_plain = pair.iter().all(u8::is_ascii_graphic) && pair.len() <= MAX_COOKIE_BYTES;
    let expires = |attribute: &[u8]| {
        let (name, value) = attribute.split_at(cookie_name(attribute).len());
        name.eq_ignore_ascii_case(b"max-age") && matches!(value, [b'=', b'0' | b'-', ..])
    };
    (is_known && is_plain).then(|| (pair, name, !has_value || parts.any(expires)))
}

fn cookie_name(pair: &[u8]) -> &[u8] {
    pair.split(|byte| *byte == b'=').next().unwrap_or_default()
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            sessions: Mutex::new(LruCache::new(MAX_SESSIONS)),
            have_cookies: AtomicBool::new(false),
            other_names: Mutex::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the resource names no cookies.
    fn plain(users: &Allowlist) -> AffinityNames<'_> {
        AffinityNames { further: &[], users }
    }

    fn id(text: &str) -> SessionId {
        SessionId(HeaderValue::from_str(text).unwrap())
    }

    fn set(sessions: &Sessions, session: &str, set_cookies: &[&'static str]) {
        let values: Vec<_> = set_cookies
            .iter()
            .map(|text| HeaderValue::from_static(text))
            .collect();
        let names = AffinityNames {
            further: &["my-lb".into()],
            users: &Allowlist::new(["GCLB", "both"], []),
        };
        sessions.record_affinity_cookies(&id(session), values.iter(), names);
    }

    fn cookies(sessions: &Sessions, session: &str) -> Option<String> {
        let cookies = sessions.affinity_cookies(&id(session))?;
        Some(String::from_utf8(cookies).unwrap())
    }

    #[test]
    fn cookies_of_a_load_balancer_are_kept_for_the_session_and_no_others() {
        let sessions = Sessions::default();
        assert_eq!(cookies(&sessions, "a"), None);
        set(
            &sessions,
            "a",
            &[
                "AWSALB=1; Path=/; Expires=Wed, 01 Jan 2031 00:00:00 GMT",
                "sid=secret",
                "AWSALBAPP-0=x=y",
            ],
        );
        set(
            &sessions,
            "a",
            &["GCLB=\"of the user's names\"", "AWSALBx=1", "awsalb=1", "=AWSALB"],
        );
        assert_eq!(
            cookies(&sessions, "a").as_deref(),
            Some("AWSALB=1; AWSALBAPP-0=x=y")
        );
        assert_eq!(cookies(&sessions, "b"), None);
        set(&sessions, "a", &["AWSALB=2"]);
        assert_eq!(
            cookies(&sessions, "a").as_deref(),
            Some("AWSALBAPP-0=x=y; AWSALB=2")
        );
        set(&sessions, "a", &["AWSALB=3; max-AGE=0", "AWSALBAPP-0="]);
        assert_eq!(cookies(&sessions, "a"), None);
        sessions.record_nobodys(&id("a"));
        set(&sessions, "a", &["route=r1"]);
        assert!(sessions.is_nobodys(&id("a")));
        assert_eq!(cookies(&sessions, "a").as_deref(), Some("route=r1"));
    }

    /// Byte for byte, and never one of a user's, whatever is called so.
    #[test]
    fn further_names_of_the_resource_are_kept_too() {
        let sessions = Sessions::default();
        set(
            &sessions,
            "a",
            &["my-lb=1; Path=/", "MY-LB=1", "my-lb-2=1", "both=1", "AWSALB=2"],
        );
        assert_eq!(cookies(&sessions, "a").as_deref(), Some("my-lb=1; AWSALB=2"));
        set(&sessions, "a", &["my-lb=; Max-Age=0"]);
        assert_eq!(cookies(&sessions, "a").as_deref(), Some("AWSALB=2"));
        let users = Allowlist::new(["both"], []);
        let names = AffinityNames {
            further: &["both".into()],
            users: &users,
        };
        let value = HeaderValue::from_static("both=1");
        sessions.record_affinity_cookies(&id("b"), [&value].into_iter(), names);
        assert_eq!(cookies(&sessions, "b"), None);
    }

    #[test]
    fn a_cookie_that_is_long_or_odd_and_more_than_a_few_are_not_kept() {
        let sessions = Sessions::default();
        let long = format!("route={}", "x".repeat(MAX_COOKIE_BYTES));
        let values = [long, "route=a b".into(), "route=a\u{e9}".into(), "route".into()];
        let values: Vec<_> = values
            .iter()
            .map(|text| HeaderValue::from_bytes(text.as_bytes()).unwrap())
            .collect();
        sessions.record_affinity_cookies(&id("a"), values.iter(), plain(&Allowlist::default()));
        assert_eq!(cookies(&sessions, "a"), None);
        let many: Vec<_> = (0..20).map(|number| format!("AWSALBAPP-{number}=x")).collect();
        let many: Vec<_> = many
            .iter()
            .map(|text| HeaderValue::from_str(text).unwrap())
            .collect();
        sessions.record_affinity_cookies(&id("a"), many.iter(), plain(&Allowlist::default()));
        assert_eq!(cookies(&sessions, "a").unwrap().split("; ").count(), MAX_COOKIES);
    }

    #[test]
    fn as_many_sessions_are_kept_as_there_is_room_for() {
        let sessions = Sessions::default();
        for number in 0..=MAX_SESSIONS {
            sessions.record_nobodys(&id(&number.to_string()));
        }
        assert!(!sessions.is_nobodys(&id("0")), "the oldest has gone");
        assert!(sessions.is_nobodys(&id("1")));
        let long = id(&"x".repeat(MAX_ID_BYTES + 1));
        sessions.record_nobodys(&long);
        assert!(!sessions.is_nobodys(&long));
        assert!(sessions.is_nobodys(&id("2")), "nothing went for it");
    }

    /// Of providers' own documentation.
    #[test]
    fn cookies_of_many_load_balancers_are_known() {
        for name in [
            "AWSALBTGCORS",
            "AWSALBAPP-1",
            "ARRAffinitySameSite",
            "ApplicationGatewayAffinity",
            "ApplicationGatewayAffinityCORS",
            "ASLBSA",
            "GCILB",
            "GCLB",
            "__cflb",
            "BIGipServer~pool",
        ] {
            let sessions = Sessions::default();
            let value = HeaderValue::try_from(format!("{name}=1; Path=/")).unwrap();
            sessions.record_affinity_cookies(&id("a"), [&value].into_iter(), plain(&Allowlist::default()));
            assert_eq!(cookies(&sessions, "a"), Some(format!("{name}=1")));
        }
    }

    #[test]
    fn a_session_with_sse_is_named_by_its_endpoint_and_is_nobodys_unless_a_user_has_the_same() {
        let sessions = Sessions::default();
        let endpoint = SessionId::of_endpoint("/messages/?session_id=1");
        assert_eq!(endpoint, SessionId::of_endpoint("/messages?session_id=1"));
        assert_ne!(endpoint, SessionId::of_endpoint("/messages?session_id=2"));
        let stream = |is_nobodys| OpeningStream {
            is_nobodys,
            set_cookies: vec![HeaderValue::from_static("route=r1")],
        };
        sessions.record_stream(&endpoint, &stream(true), plain(&Allowlist::default()));
        assert!(sessions.is_nobodys(&endpoint));
        assert_eq!(
            sessions.affinity_cookies(&endpoint).as_deref(),
            Some(&b"route=r1"[..])
        );
        sessions.record_stream(&endpoint, &stream(false), plain(&Allowlist::default()));
        assert!(!sessions.is_nobodys(&endpoint));
    }

    #[test]
    fn cookies_that_are_not_kept_are_named_once_each_and_not_without_end() {
        let sessions = Sessions::default();
        let long = format!("{}=1", "n".repeat(MAX_NAME_BYTES + 1));
        set(&sessions, "a", &["sid=1", "sid=2", "odd name=1", "=1"]);
        sessions.log_other_name(long.as_bytes());
        assert_eq!(sessions.other_names.lock().len(), 1);
        (0..100).for_each(|number| sessions.log_other_name(format!("s{number}=1").as_bytes()));
        assert_eq!(sessions.other_names.lock().len(), MAX_OTHER_NAMES);
    }
}
