//! The status page: three files in the binary, served as they are. What they show they fetch from
//! the JSON interface themselves.

/// A file of the page, by the path it is asked for. The page names the others without a leading
/// slash, so that it also works behind a proxy that puts something in front.
pub fn file(path: &str) -> Option<(&'static str, &'static [u8])> {
    Some(match path {
        "/" => ("text/html; charset=utf-8", include_bytes!("page/index.html")),
        "/page.css" => ("text/css; charset=utf-8", include_bytes!("page/page.css")),
        "/page.js" => ("text/javascript; charset=utf-8", include_bytes!("page/page.js")),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATHS: [&str; 3] = ["/", "/page.css", "/page.js"];

    /// Locked in the daemon's memory from the first time that somebody looks.
    const MOST: usize = 28 * 1024;

    fn text(path: &str) -> &'static str {
        std::str::from_utf8(file(path).unwrap().1).unwrap()
    }

    #[test]
    fn all_parts_together_stay_small() {
        let size: usize = PATHS.iter().map(|path| text(path).len()).sum();
        assert!(size <= MOST, "{size} bytes, at most {MOST}");
    }

    #[test]
    fn the_page_names_its_parts_and_nothing_outside() {
        for name in ["href=\"page.css\"", "src=\"page.js\""] {
            assert!(text("/").contains(name), "{name}");
        }
        for path in PATHS {
            for outside in ["http:", "https:", "\"//", "@import", "url("] {
                assert!(!text(path).contains(outside), "{path}: {outside}");
            }
        }
    }

    #[test]
    fn nothing_is_inline_and_nothing_becomes_markup() {
        for inline in ["style=", "<style", "javascript:", " onclick=", " onload="] {
            assert!(!text("/").contains(inline), "{inline}");
        }
        assert_eq!(text("/").matches("<script").count(), 1, "the one with src");
        for markup in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!text("/page.js").contains(markup), "{markup}");
        }
    }

    #[test]
    fn what_is_no_part_of_it_is_not_found() {
        for path in ["", "/index.html", "/page.css/", "page.js"] {
            assert!(file(path).is_none(), "{path:?}");
        }
    }
}
