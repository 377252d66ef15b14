//! Session table: what the sidecar keeps of a server's sessions, by their `Mcp-Session-Id`. It is bounded and in
//! memory only; whoever uses it does without what it has forgotten.

use std::sync::atomic::{AtomicBool, Ordering};

use hashlink::LruCache;
use http::{HeaderName, HeaderValue};
use parking_lot::Mutex;

/// Names the session of a request to an MCP server with streamable HTTP.
pub const SESSION_HEADER: HeaderName = HeaderName::from_static("mcp-session-id");

/// Sessions of one server that are kept; beyond, the one that was used least recently goes.
const MAX_SESSIONS: usize = 2048;
/// Longest identifier that is kept. Those of the official SDKs have 32 to 36 bytes.
const MAX_ID_BYTES: usize = 256;

/// Cookies by which load balancers keep a client at one of several servers (session affinity): of AWS, Google Cloud, Azure,
/// Cloudflare, HAProxy, ingress-nginx and nginx.
const AFFINITY_COOKIES: [&[u8]; 13] = [
    b"AWSALB",
    b"AWSALBCORS",
    b"AWSALBTG",
    b"AWSALBTGCORS",
    b"AWSELB",
    b"AWSELBCORS",
    b"ARRAffinity",
    b"ARRAffinitySameSite",
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

/// The sessions of one server.
pub struct Sessions {
    sessions: Mutex<LruCache<Box<[u8]>, Session>>,
    /// Whether any session ever had a cookie: most servers have none, and are spared the search.
    have_cookies: AtomicBool,
}

#[derive(Default)]
struct Session {
    /// It was opened for no user where the server demands one, as discovery does.
    is_nobodys: bool,
    /// `NAME=VALUE` of a load balancer before the server.
    affinity_cookies: Vec<Box<[u8]>>,
}

impl Sessions {
    /// Records that the session was opened for no user.
    pub fn record_nobodys(&self, id: &[u8]) {
        self.change(id, |session| session.is_nobodys = true);
    }

    /// Takes up the cookies of a load balancer from an answer within the session. Those of users, for which `is_users` is
    /// true, are none, whatever they are called.
    pub fn record_affinity_cookies<'a>(
        &self,
        id: &[u8],
        set_cookies: impl Iterator<Item = &'a HeaderValue>,
        is_users: impl Fn(&[u8]) -> bool,
    ) {
        for set_cookie in set_cookies {
            let Some((pair, name, is_removed)) = affinity_cookie(set_cookie.as_bytes()) else {
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
    pub fn affinity_cookies(&self, id: &[u8]) -> Option<Vec<u8>> {
        if !self.have_cookies.load(Ordering::Relaxed) {
            return None;
        }
        let mut sessions = self.sessions.lock();
        let cookies = &sessions.get(id)?.affinity_cookies;
        (!cookies.is_empty()).then(|| cookies.join(&b"; "[..]))
    }

    /// Whether the session is known to have been opened for no user.
    pub fn is_nobodys(&self, id: &[u8]) -> bool {
        let mut sessions = self.sessions.lock();
        sessions.get(id).is_some_and(|session| session.is_nobodys)
    }

    fn change(&self, id: &[u8], change: impl FnOnce(&mut Session)) {
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
fn affinity_cookie(set_cookie: &[u8]) -> Option<(&[u8], &[u8], bool)> {
    let mut parts = set_cookie.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let pair = parts.next()?;
    let name = cookie_name(pair);
    let is_known =
        AFFINITY_COOKIES.contains(&name) || AFFINITY_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(sessions: &Sessions, id: &str, set_cookies: &[&'static str]) {
        let values: Vec<_> = set_cookies
            .iter()
            .map(|text| HeaderValue::from_static(text))
            .collect();
        sessions.record_affinity_cookies(id.as_bytes(), values.iter(), |name| name == b"GCLB");
    }

    fn cookies(sessions: &Sessions, id: &str) -> Option<String> {
        let cookies = sessions.affinity_cookies(id.as_bytes())?;
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
        sessions.record_nobodys(b"a");
        set(&sessions, "a", &["route=r1"]);
        assert!(sessions.is_nobodys(b"a"));
        assert_eq!(cookies(&sessions, "a").as_deref(), Some("route=r1"));
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
        sessions.record_affinity_cookies(b"a", values.iter(), |_| false);
        assert_eq!(cookies(&sessions, "a"), None);
        let many: Vec<_> = (0..20).map(|number| format!("AWSALBAPP-{number}=x")).collect();
        let many: Vec<_> = many
            .iter()
            .map(|text| HeaderValue::from_str(text).unwrap())
            .collect();
        sessions.record_affinity_cookies(b"a", many.iter(), |_| false);
        assert_eq!(cookies(&sessions, "a").unwrap().split("; ").count(), MAX_COOKIES);
    }

    #[test]
    fn as_many_sessions_are_kept_as_there_is_room_for() {
        let sessions = Sessions::default();
        for number in 0..=MAX_SESSIONS {
            sessions.record_nobodys(number.to_string().as_bytes());
        }
        assert!(!sessions.is_nobodys(b"0"), "the oldest has gone");
        assert!(sessions.is_nobodys(b"1"));
        let long = [b'x'; MAX_ID_BYTES + 1];
        sessions.record_nobodys(&long);
        assert!(!sessions.is_nobodys(&long));
        assert!(sessions.is_nobodys(b"2"), "nothing went for it");
    }
}
