//! The status page: three files in the binary, served as they are. What they show they fetch from
//! the JSON interface themselves.

/// A file of the page, by the path it is asked for.
pub fn file(path: &str) -> Option<(&'static str, &'static [u8])> {
    Some(match path {
        "/" => ("text/html; charset=utf-8", include_bytes!("page/index.html")),
        "/page.css" => ("text/css; charset=utf-8", include_bytes!("page/page.css")),
        "/page.js" => ("text/javascript; charset=utf-8", include_bytes!("page/page.js")),
        _ => return None,
    })
}
