//! What a process's title or argv says about PHP. Pure: bytes in, values out. Both are the
//! process's own words: bounded here, escaped where they are shown, never a path that is opened.

use crate::policy::identity::{Php, PhpRole};

/// A pool's, a script's name is kept up to here; longer ones are cut.
pub const MAX_NAME: usize = 1024;
/// Arguments looked at: those of PHP itself stand in front of the script.
const MAX_ARGS: usize = 256;

/// What argv alone says; [`Said::with`] makes a claim of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    Master,
    Worker {
        pool: Box<str>,
    },
    /// Apache; whether PHP is in it is not in its argv.
    Apache,
    /// PHP's command line: the script as it was given, or what it does without one.
    Script {
        file: Box<str>,
        /// The path lacks the working directory.
        is_relative: bool,
    },
    Nothing,
}

impl Said {
    /// The claim. `cwd` is the working directory, where it is known; `has_php` says whether an
    /// Apache has mapped PHP's library.
    pub fn with(self, cwd: Option<&[u8]>, has_php: bool) -> Option<Php> {
        let (role, application) = match self {
            Said::Master => (PhpRole::Master, String::new()),
            Said::Worker { pool } => (PhpRole::Worker, format!("pool:{pool}")),
            Said::Apache if has_php => (PhpRole::Apache, "apache".to_owned()),
            Said::Script { file, is_relative } => {
                let dir = cwd.filter(|_| is_relative).map(text);
                let file = file.strip_prefix("./").filter(|_| is_relative).unwrap_or(&file);
                let application = match dir {
                    Some(dir) => format!("script:{}/{file}", dir.trim_end_matches('/')),
                    None => format!("script:{file}"),
                };
                (PhpRole::Script, application)
            }
            Said::Apache | Said::Nothing => return None,
        };
        Some(Php { role, application: cut(application).into() })
    }
}

/// Reads `/proc/<pid>/cmdline`.
pub fn argv(cmdline: &[u8]) -> Said {
    let mut args = cmdline.split(|byte| *byte == 0).take(MAX_ARGS);
    let Some(first) = args.next() else { return Said::Nothing };
    if let Some(title) = first.strip_prefix(b"php-fpm: ") {
        return match title.strip_prefix(b"pool ") {
            Some(pool) if !pool.trim_ascii().is_empty() => {
                Said::Worker { pool: text(pool.trim_ascii()).into() }
            }
            _ if title.starts_with(b"master process") => Said::Master,
            _ => Said::Nothing,
        };
    }
    match kind(base_name(first)) {
        Some(Kind::Fpm) => Said::Master,
        Some(Kind::Apache) => Said::Apache,
        Some(Kind::Cli) => script(args),
        None => Said::Nothing,
    }
}

enum Kind {
    Fpm,
    Cli,
    Apache,
}

/// By the program's name: `php`, `php8.2`, `php-fpm8.2`, `php-cgi`, `apache2`, `httpd`.
fn kind(name: &[u8]) -> Option<Kind> {
    if matches!(name, b"apache2" | b"httpd" | b"httpd-prefork") {
        return Some(Kind::Apache);
    }
    let is_version = |text: &[u8]| text.iter().all(|b| b.is_ascii_digit() || *b == b'.');
    let rest = name.strip_prefix(b"php")?;
    if rest.strip_prefix(b"-fpm").is_some_and(is_version) {
        return Some(Kind::Fpm);
    }
    let at = rest.iter().position(|b| *b == b'-').unwrap_or(rest.len());
    let (version, flavour) = rest.split_at(at);
    let known = [&b""[..], b"-cli", b"-cgi", b"-zts"].contains(&flavour)
        || [&b"-cli"[..], b"-cgi"].iter().any(|f| flavour.strip_prefix(*f).is_some_and(is_version));
    (is_version(version) && known).then_some(Kind::Cli)
}

/// Finds the script among PHP's own options (php_cli.c of PHP 8.2 lists them).
fn script<'a>(mut args: impl Iterator<Item = &'a [u8]>) -> Said {
    let mut serves = None;
    while let Some(arg) = args.next() {
        let Some(option) = arg.strip_prefix(b"-") else { return given(arg, serves) };
        match option {
            b"" | b"-" => break,
            b"-file" | b"-process-file" | b"f" | b"F" => {
                return args.next().map_or(without(None), |file| given(file, None));
            }
            b"-server" | b"S" => serves = args.next(),
            b"-run" | b"r" => break,
            b"-php-ini" | b"-define" | b"-docroot" | b"-zend-extension" | b"-process-begin"
            | b"-process-code" | b"-process-end" => {
                args.next();
            }
            [b'f' | b'F', file @ ..] => return given(file, None),
            [b'S', address @ ..] => serves = Some(address),
            [b'r', ..] => break,
            [b'c' | b'd' | b'z' | b'B' | b'R' | b'E' | b't' | b'b' | b'T'] => {
                args.next();
            }
            _ => {}
        }
    }
    without(serves)
}

fn given(file: &[u8], serves: Option<&[u8]>) -> Said {
    // A page of NULs follows a title that is shorter than the argv before it.
    if file.is_empty() {
        return without(serves);
    }
    Said::Script { file: text(file).into(), is_relative: !file.starts_with(b"/") }
}

/// Code from a pipe or the command line has no name; a server has its address.
fn without(serves: Option<&[u8]>) -> Said {
    let file = match serves {
        Some(address) => format!("-S {}", text(address)),
        None => "-".to_owned(),
    };
    Said::Script { file: file.into(), is_relative: false }
}

fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

fn text(bytes: &[u8]) -> String {
    cut(String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_NAME)]).into_owned())
}

fn cut(mut text: String) -> String {
    while text.len() > MAX_NAME {
        text.pop();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claim(args: &str, cwd: Option<&str>, has_php: bool) -> String {
        let line = args.replace('|', "\0");
        let php = argv(line.as_bytes()).with(cwd.map(str::as_bytes), has_php);
        php.map_or("-".into(), |php| format!("{:?} {}", php.role, php.application))
    }

    /// A command line (arguments end in `|`), and the claim it makes in `/srv`.
    #[test]
    fn claims_follow_the_table() {
        const TABLE: [(&str, &str); 37] = [
            ("php-fpm: master process (/etc/php/8.2/fpm/php-fpm.conf)||||", "Master "),
            ("php-fpm: pool www||||||||||||||||||||||||||||||||||||||||||||", "Worker pool:www"),
            ("php-fpm: pool my shop   |||", "Worker pool:my shop"),
            ("php-fpm: pool |", "-"),
            ("php-fpm: something else|", "-"),
            ("/usr/sbin/php-fpm8.2|--nodaemonize|", "Master "),
            ("php-fpm|-F|", "Master "),
            ("php-fpmx|", "-"),
            ("apache2|-DFOREGROUND|", "Apache apache"),
            ("/usr/sbin/apache2|-k|start|", "Apache apache"),
            ("/usr/sbin/httpd|-DFOREGROUND|", "Apache apache"),
            ("php|/srv/app/job.php|--now|", "Script script:/srv/app/job.php"),
            ("/usr/bin/php8.2|-f|job.php|", "Script script:/srv/job.php"),
            ("php|-fjob.php|x.php|", "Script script:/srv/job.php"),
            ("php|--file|job.php|", "Script script:/srv/job.php"),
            ("php|./job.php|", "Script script:/srv/job.php"),
            ("php|artisan|queue:work|", "Script script:/srv/artisan"),
            ("php|-d|memory_limit=1G|-c|/etc/php.ini|-n|job.php|", "Script script:/srv/job.php"),
            ("php|-dmemory_limit=1G|-q|job.php|", "Script script:/srv/job.php"),
            ("php|--define|a=b|--no-php-ini|job.php|", "Script script:/srv/job.php"),
            ("php|-z|ext.so|/a/b|", "Script script:/a/b"),
            ("php|-r|echo 1;|x.php|", "Script script:-"),
            ("php|-recho 1;|x.php|", "Script script:-"),
            ("php|-a|", "Script script:-"),
            ("php|--|x.php|", "Script script:-"),
            ("php|-|x.php|", "Script script:-"),
            ("php|", "Script script:-"),
            ("php|-f|", "Script script:-"),
            ("php|-S|0.0.0.0:80|-t|public|", "Script script:-S 0.0.0.0:80"),
            ("php|-S|0.0.0.0:80|router.php|", "Script script:/srv/router.php"),
            ("php-cgi|-b|127.0.0.1:9000|", "Script script:-"),
            ("php-cgi8.2|/srv/x.php|", "Script script:/srv/x.php"),
            ("phpize|", "-"),
            ("phpunit|", "-"),
            ("php-config|--x|", "-"),
            ("python3|/srv/php|job.php|", "-"),
            ("", "-"),
        ];
        for (line, expected) in TABLE {
            assert_eq!(claim(line, Some("/srv"), true), expected, "{line}");
        }
    }

    #[test]
    fn an_apache_without_php_in_it_is_none_of_ours() {
        assert_eq!(claim("apache2|-k|start|", None, false), "-");
    }

    #[test]
    fn a_script_whose_directory_is_not_known_keeps_the_name_it_was_given() {
        assert_eq!(claim("php|./job.php|", None, false), "Script script:job.php");
        assert_eq!(claim("php|job.php|", Some("/"), false), "Script script:/job.php");
        assert_eq!(claim("php|/x/job.php|", Some("/srv"), false), "Script script:/x/job.php");
    }

    #[test]
    fn names_are_bounded() {
        for title in ["php-fpm: pool ", "php|", "php|-S|"] {
            let line = title.replace('|', "\0") + &"\u{20ac}".repeat(MAX_NAME);
            let php = argv(line.as_bytes()).with(Some(&[0xff; 5000]), true).unwrap();
            assert!(php.application.len() <= MAX_NAME, "{}", php.application.len());
        }
        let endless = [b"php\0".to_vec(), b"-q\0".repeat(10_000), b"x.php".to_vec()].concat();
        assert_eq!(argv(&endless), without(None));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            for start in [&b""[..], b"php\0", b"php-fpm: pool ", b"php\0-"] {
                let _ = argv(&[start, &line].concat()).with(Some(&line), true);
            }
        }
    }
}
