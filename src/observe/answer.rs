//! An answer of the HTTP interface as it goes over the wire: status, headers, body. Formats; knows
//! nothing of sockets or containers.

use std::fmt::Write as _;

use super::api;

/// What an answer says of how it went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    Ok,
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    ContentTooLarge,
    HeaderTooLarge,
    Unavailable,
}

impl Status {
    pub fn code(self) -> u16 {
        match self {
            Status::Ok => 200,
            Status::BadRequest => 400,
            Status::Unauthorized => 401,
            Status::Forbidden => 403,
            Status::NotFound => 404,
            Status::MethodNotAllowed => 405,
            Status::ContentTooLarge => 413,
            Status::HeaderTooLarge => 431,
            Status::Unavailable => 503,
        }
    }

    fn phrase(self) -> &'static str {
        match self {
            Status::Ok => "OK",
            Status::BadRequest => "Bad Request",
            Status::Unauthorized => "Unauthorized",
            Status::Forbidden => "Forbidden",
            Status::NotFound => "Not Found",
            Status::MethodNotAllowed => "Method Not Allowed",
            Status::ContentTooLarge => "Content Too Large",
            Status::HeaderTooLarge => "Request Header Fields Too Large",
            Status::Unavailable => "Service Unavailable",
        }
    }

    /// A header that this status must have (RFC 9110).
    fn header(self) -> &'static str {
        match self {
            Status::Unauthorized => "WWW-Authenticate: Bearer realm=\"nbguard\"\r\n",
            Status::MethodNotAllowed => "Allow: GET, HEAD\r\n",
            _ => "",
        }
    }
}

pub const JSON: &str = "application/json; charset=utf-8";

/// The page loads nothing from elsewhere and is framed by nobody; nobody guesses at types.
const ALWAYS: &str = "Connection: close\r\nCache-Control: no-store\r\n\
    X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
    Cross-Origin-Resource-Policy: same-origin\r\n\
    Content-Security-Policy: default-src 'none'; style-src 'self'; script-src 'self'; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'\r\n";

/// The whole answer; to HEAD without the body, of which it tells the length all the same.
pub fn answer(status: Status, kind: &str, body: &[u8], with_body: bool) -> Vec<u8> {
    let mut head = String::with_capacity(512);
    let _ = write!(
        head,
        "HTTP/1.1 {} {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{}{ALWAYS}\r\n",
        status.code(),
        status.phrase(),
        body.len(),
        status.header(),
    );
    let mut bytes = Vec::with_capacity(head.len() + if with_body { body.len() } else { 0 });
    bytes.extend_from_slice(head.as_bytes());
    if with_body {
        bytes.extend_from_slice(body);
    }
    bytes
}

/// An answer that is none, and why.
pub fn refusal(status: Status, why: &str, with_body: bool) -> Vec<u8> {
    answer(status, JSON, &api::error(why), with_body)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Status; 9] = [
        Status::Ok,
        Status::BadRequest,
        Status::Unauthorized,
        Status::Forbidden,
        Status::NotFound,
        Status::MethodNotAllowed,
        Status::ContentTooLarge,
        Status::HeaderTooLarge,
        Status::Unavailable,
    ];

    #[test]
    fn every_answer_is_one_that_an_http_client_reads() {
        for status in ALL {
            let bytes = refusal(status, "a \"reason\"", true);
            let mut headers = [httparse::EMPTY_HEADER; 16];
            let mut read = httparse::Response::new(&mut headers);
            let httparse::Status::Complete(len) = read.parse(&bytes).unwrap() else { panic!() };
            assert_eq!((read.code, read.reason), (Some(status.code()), Some(status.phrase())));
            let header = |name: &str| {
                let found = read.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
                found.map(|h| str::from_utf8(h.value).unwrap())
            };
            assert_eq!(header("content-length").unwrap(), (bytes.len() - len).to_string());
            assert_eq!(header("connection"), Some("close"));
            assert_eq!(header("cache-control"), Some("no-store"));
            assert!(header("content-security-policy").unwrap().contains("default-src 'none'"));
            assert_eq!(header("allow").is_some(), status == Status::MethodNotAllowed);
            assert_eq!(header("www-authenticate").is_some(), status == Status::Unauthorized);
            let body: serde_json::Value = serde_json::from_slice(&bytes[len..]).unwrap();
            assert_eq!(body["error"], "a \"reason\"");
        }
    }

    #[test]
    fn head_is_told_the_length_and_no_more() {
        let whole = answer(Status::Ok, "text/plain", b"four", true);
        let head = answer(Status::Ok, "text/plain", b"four", false);
        assert_eq!(whole[..head.len()], head[..]);
        assert_eq!(&whole[head.len()..], b"four");
    }
}
