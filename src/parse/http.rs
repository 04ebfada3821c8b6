//! The head of a request to the guard: the few parts that are answered to, and nothing else. Pure;
//! bounded in bytes and lines; hostile to whatever could be read in two ways.

use super::decimal;

/// A browser sends half a KiB, a scraper less.
pub const HEAD_MAX: usize = 4 << 10;
/// A browser sends a dozen.
pub const HEADERS_MAX: usize = 32;
/// Incidents that are told when nobody says how many.
pub const LIMIT_DEFAULT: u32 = 50;
pub const LIMIT_MAX: u32 = 500;

/// The methods that are answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    Get,
    Head,
}

/// A request that came whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request<'b> {
    pub method: Method,
    /// Without the query; as it was sent, nothing decoded.
    pub path: &'b str,
    /// `limit=` of the query, at most [`LIMIT_MAX`].
    pub limit: u32,
    pub host: Option<&'b str>,
    /// What follows `Bearer`.
    pub token: Option<&'b [u8]>,
    /// What kinds of answer are understood; empty where it is not said.
    pub accept: &'b str,
    /// Bytes of the head.
    pub len: usize,
}

/// Why a request is not answered as it asks. Each is a status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// 400: what it says cannot be read, or not in one way only.
    Malformed(&'static str),
    /// 405.
    Method,
    /// 413: a body follows, and nothing here takes one.
    Body,
    /// 431.
    TooLarge,
}

/// Reads what has come so far; `None` while there is more to come.
///
/// # Errors
/// Why it will not be answered, however much more comes.
pub fn request(text: &[u8]) -> Result<Option<Request<'_>>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut read = httparse::Request::new(&mut headers);
    let len = match read.parse(&text[..text.len().min(HEAD_MAX)]) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if text.len() >= HEAD_MAX => return Err(Refusal::TooLarge),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::TooLarge),
        Err(_) => return Err(Refusal::Malformed("this is not HTTP/1.1")),
    };
    let method = match read.method {
        Some("GET") => Method::Get,
        Some("HEAD") => Method::Head,
        _ => return Err(Refusal::Method),
    };
    let (path, query) = target(read.path.unwrap_or_default())?;
    let mut request =
        Request { method, path, limit: limit(query)?, host: None, token: None, accept: "", len };
    for header in read.headers.iter() {
        request.take(header)?;
    }
    Ok(Some(request))
}

impl<'b> Request<'b> {
    fn take(&mut self, header: &httparse::Header<'b>) -> Result<(), Refusal> {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("host") {
            let host = str::from_utf8(header.value).ok().filter(|host| !host.is_empty());
            let host = host.ok_or(Refusal::Malformed("the Host header cannot be read"))?;
            // Two of them are read differently by whoever stands in between.
            if self.host.replace(host).is_some() {
                return Err(Refusal::Malformed("more than one Host header"));
            }
        } else if is("authorization") {
            let again = self.token.is_some();
            self.token = bearer(header.value);
            if again {
                return Err(Refusal::Malformed("more than one Authorization header"));
            }
        } else if is("accept") {
            self.accept = str::from_utf8(header.value).unwrap_or_default();
        } else if is("content-length") && header.value.trim_ascii() != b"0"
            || is("transfer-encoding")
        {
            return Err(Refusal::Body);
        }
        Ok(())
    }
}

/// Path and query. A path of its own host alone: what names another (a proxy's request) is none.
fn target(text: &str) -> Result<(&str, &str), Refusal> {
    if !text.starts_with('/') {
        return Err(Refusal::Malformed("the path must begin with a slash"));
    }
    Ok(text.split_once('?').unwrap_or((text, "")))
}

/// What is not known in a query is passed over, as everywhere.
fn limit(query: &str) -> Result<u32, Refusal> {
    let mut found = None;
    for part in query.split('&') {
        let Some(value) = part.strip_prefix("limit=") else { continue };
        let number =
            decimal(value.as_bytes()).ok_or(Refusal::Malformed("limit= wants a number"))?;
        if found.replace(number).is_some() {
            return Err(Refusal::Malformed("more than one limit="));
        }
    }
    let number = found.unwrap_or(u64::from(LIMIT_DEFAULT)).min(u64::from(LIMIT_MAX));
    Ok(u32::try_from(number).unwrap_or(LIMIT_MAX))
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii())
}

/// The host of a Host header: without its port, brackets kept.
pub fn host_name(host: &str) -> &str {
    let end = match host.strip_prefix('[') {
        Some(rest) => rest.find(']').map_or(host.len(), |at| at + 2),
        None => host.find(':').unwrap_or(host.len()),
    };
    &host[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Option<Request<'_>>, Refusal> {
        request(text.as_bytes())
    }

    fn whole(text: &str) -> Request<'_> {
        read(text).unwrap().unwrap()
    }

    #[test]
    fn what_a_scraper_a_browser_and_curl_send_is_read() {
        let curl = whole(
            "GET /healthz HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8\r\nAccept: */*\r\n\r\n",
        );
        assert_eq!(
            (curl.method, curl.path, curl.host),
            (Method::Get, "/healthz", Some("localhost"))
        );
        assert_eq!((curl.limit, curl.token, curl.accept), (LIMIT_DEFAULT, None, "*/*"));
        let scrape = whole(
            "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9843\r\nAuthorization: Bearer  s3cret \r\n\
             Accept: application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
             text/plain;version=0.0.4;q=0.2,*/*;q=0.1\r\nX-Prometheus-Scrape-Timeout-Seconds: 10\r\n\r\n",
        );
        assert_eq!(scrape.token, Some(&b"s3cret"[..]));
        assert!(scrape.accept.starts_with("application/openmetrics-text;version=1.0.0"));
        let head = whole("HEAD /api/v1/incidents?x=1&limit=7 HTTP/1.0\r\n\r\nrest");
        assert_eq!((head.method, head.path, head.limit), (Method::Head, "/api/v1/incidents", 7));
        assert_eq!((head.host, head.len), (None, 47));
    }

    #[test]
    fn more_is_waited_for_until_there_is_too_much() {
        for part in ["", "G", "GET /", "GET / HTTP/1.1", "GET / HTTP/1.1\r\nHost: a\r\n"] {
            assert_eq!(read(part), Ok(None), "{part:?}");
        }
        let long = |len: usize| format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(len));
        assert_eq!(read(&long(HEAD_MAX - 20)), Ok(None));
        assert_eq!(read(&long(HEAD_MAX)), Err(Refusal::TooLarge));
        let path = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(HEAD_MAX));
        assert_eq!(read(&path), Err(Refusal::TooLarge));
        let lines = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
        assert!(read(&lines(HEADERS_MAX)).unwrap().is_some());
        assert_eq!(read(&lines(HEADERS_MAX + 1)), Err(Refusal::TooLarge));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let malformed = |text: &str| matches!(read(text), Err(Refusal::Malformed(_)));
        for bad in [
            "\0\0\0\0\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
            "GET http://elsewhere/ HTTP/1.1\r\n\r\n",
            "GET * HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: \r\n\r\n",
            "GET / HTTP/1.1\r\nHost: \u{fe}\r\nHost: x\r\n\r\n",
            "GET / HTTP/1.1\r\n folded: x\r\n\r\n",
            "GET / HTTP/1.1\r\nname : x\r\n\r\n",
            "GET / HTTP/1.1\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n",
            "GET /?limit=x HTTP/1.1\r\n\r\n",
            "GET /?limit=-1 HTTP/1.1\r\n\r\n",
            "GET /?limit= HTTP/1.1\r\n\r\n",
            "GET /?limit=1&limit=2 HTTP/1.1\r\n\r\n",
            "GET /?limit=99999999999999999999999 HTTP/1.1\r\n\r\n",
            "\x16\x03\x01\x02\x00\x01\x00\x01",
        ] {
            assert!(malformed(bad), "{bad:?}: {:?}", read(bad));
        }
    }

    #[test]
    fn other_methods_and_bodies_have_their_own_refusals() {
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "get", "GETT"] {
            let text = format!("{method} / HTTP/1.1\r\n\r\n");
            assert_eq!(read(&text), Err(Refusal::Method), "{method}");
        }
        for header in ["Content-Length: 5", "content-length: x", "Transfer-Encoding: chunked"] {
            let text = format!("GET / HTTP/1.1\r\n{header}\r\n\r\n");
            assert_eq!(read(&text), Err(Refusal::Body), "{header}");
        }
        assert!(read("GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n").unwrap().is_some());
    }

    #[test]
    fn the_limit_has_an_end() {
        for (query, limit) in [
            ("?limit=0", 0),
            ("?limit=500", 500),
            ("?limit=4000000000", 500),
            ("?limits=1", 50),
            ("?", 50),
            ("?a&b=c&limit=3&d", 3),
        ] {
            assert_eq!(whole(&format!("GET /x{query} HTTP/1.1\r\n\r\n")).limit, limit, "{query}");
        }
    }

    #[test]
    fn a_token_is_a_bearers() {
        for (value, token) in [
            ("Bearer abc", Some("abc")),
            ("bearer abc", Some("abc")),
            ("Bearer", None),
            ("Bearer ", Some("")),
            ("Basic abc", None),
            ("Bearerabc", None),
            ("é", None),
        ] {
            assert_eq!(bearer(value.as_bytes()), token.map(str::as_bytes), "{value}");
        }
    }

    #[test]
    fn a_host_is_compared_without_its_port() {
        for (host, name) in [
            ("localhost", "localhost"),
            ("localhost:80", "localhost"),
            ("[::1]:9843", "[::1]"),
            ("[::1]", "[::1]"),
            ("[::1", "[::1"),
            (":80", ""),
            ("127.0.0.1.evil.example:1", "127.0.0.1.evil.example"),
        ] {
            assert_eq!(host_name(host), name, "{host}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_it_returns(text in proptest::collection::vec(any::<u8>(), 0..6000)) {
            let _ = request(&text);
        }

        #[test]
        fn whatever_comes_after_get_it_returns_and_stays_inside(
            rest in "( /[ -~]{0,40}| HTTP/1\\.[01]|\r\n|[A-Za-z-]{1,12}: [ -~]{0,30}){0,12}",
        ) {
            let text = format!("GET{rest}\r\n\r\n");
            if let Ok(Some(request)) = request(text.as_bytes()) {
                prop_assert!(request.len <= text.len());
                prop_assert!(request.path.starts_with('/'));
                prop_assert!(request.limit <= LIMIT_MAX);
                let _ = request.host.map(host_name);
            }
        }

        /// A head in pieces is the head in one.
        #[test]
        fn a_head_that_comes_in_pieces_is_partial_until_its_end(cut in 0usize..60) {
            let text = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n";
            let cut = cut.min(text.len());
            let some = request(&text[..cut]).unwrap();
            prop_assert_eq!(some.is_some(), cut == text.len());
        }
    }
}
