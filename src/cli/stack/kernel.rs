//! What the frames of a Jupyter kernel say: whether one of its cells runs. Pure: frames in, an
//! answer out.

use py_spy::Frame;

/// What the main thread of a Python process does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doing {
    /// It is no kernel.
    NoKernel,
    /// It is inside a cell, or just before or behind its code.
    Cell,
    /// It waits for the next event; if a cell awaits one is not to be seen here.
    Waits,
    /// Neither.
    Else,
}

/// Innermost first.
pub fn doing(frames: &[Frame]) -> Doing {
    if !frames.iter().any(|frame| frame.filename.contains("/ipykernel/")) {
        return Doing::NoKernel;
    }
    if frames.iter().any(runs_a_cell) {
        return Doing::Cell;
    }
    match frames.first() {
        Some(innermost) if waits(innermost) => Doing::Waits,
        _ => Doing::Else,
    }
}

/// Whether the main thread's calls may have been read while they changed: a generator is unlinked
/// from who called it at each of its values, and they seem to begin with it. They begin with a
/// module, but where Python is embedded.
pub fn seems_torn(frames: &[Frame]) -> bool {
    let is_start =
        |frame: &Frame| ["<module>", "_run_module_as_main"].contains(&frame.name.as_str());
    frames.last().is_some_and(|outermost| !is_start(outermost))
}

/// Code of a cell, on any thread: the names that IPython and ipykernel give to cells.
pub fn is_of_a_cell(frame: &Frame) -> bool {
    let name = frame.filename.rsplit('/').next().unwrap_or_default();
    // `ipykernel_4242`, by the kernel's pid; not `ipykernel_launcher.py`.
    let folder = frame.filename.split("/ipykernel_").nth(1);
    let pid = folder.and_then(|rest| rest.split_once('/')).map(|(pid, _)| pid);
    name.starts_with("<ipython-input-") || pid.is_some_and(|pid| pid.parse::<u32>().is_ok())
}

/// A frame of IPython's shell that runs a cell's code, and has its `result`.
pub fn is_shell(frame: &Frame) -> bool {
    frame.filename.ends_with("/IPython/core/interactiveshell.py")
        && ["run_code", "run_ast_nodes"].contains(&method(frame))
}

/// The number that older versions wrote into the name of a cell: `<ipython-input-7-1a2b3c>`.
pub fn number_in_name(frame: &Frame) -> Option<u64> {
    let rest = frame.filename.rsplit('/').next()?.strip_prefix("<ipython-input-")?;
    rest.split('-').next()?.parse().ok()
}

fn runs_a_cell(frame: &Frame) -> bool {
    let file = frame.filename.as_str();
    is_shell(frame)
        || file.ends_with("/IPython/core/interactiveshell.py")
            && ["run_cell", "_run_cell", "run_cell_async"].contains(&method(frame))
        || file.ends_with("/ipykernel/ipkernel.py") && method(frame) == "do_execute"
        || file.ends_with("/ipykernel/kernelbase.py") && method(frame) == "execute_request"
}

/// Where event loops wait: asyncio's selectors, and zmq's poll before tornado 5.
fn waits(frame: &Frame) -> bool {
    let file = frame.filename.as_str();
    file.ends_with("/selectors.py") && method(frame) == "select"
        || file.ends_with("/zmq/sugar/poll.py") && method(frame) == "poll"
}

/// `run_code` of `InteractiveShell.run_code`: since 3.11 names are qualified.
fn method(frame: &Frame) -> &str {
    frame.name.rsplit('.').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(text: &[&str]) -> Vec<Frame> {
        let frame = |line: &&str| {
            let (name, filename) = line.split_once(' ').unwrap();
            Frame {
                name: name.to_owned(),
                filename: filename.to_owned(),
                module: None,
                short_filename: None,
                line: 1,
                locals: None,
                is_entry: false,
                is_shim_entry: false,
            }
        };
        text.iter().map(frame).collect()
    }

    const LOOP: [&str; 4] = [
        "BaseEventLoop._run_once /l/asyncio/base_events.py",
        "BaseEventLoop.run_forever /l/asyncio/base_events.py",
        "IPKernelApp.start /s/ipykernel/kernelapp.py",
        "<module> /s/ipykernel_launcher.py",
    ];

    #[test]
    fn calls_that_begin_with_a_generator_are_torn() {
        let whole = ["f.<locals>.<genexpr> /w/a.py", "f /w/a.py", "<module> /w/a.py"];
        assert!(seems_torn(&frames(&whole[..1])));
        assert!(!seems_torn(&frames(&whole)) && !seems_torn(&frames(&LOOP)));
        assert!(!seems_torn(&frames(&[
            "_run_code <frozen runpy>",
            "_run_module_as_main <frozen runpy>"
        ])));
        // Nothing is told twice of who has no calls.
        assert!(!seems_torn(&[]));
    }

    #[test]
    fn the_frames_of_a_kernel_are_told_apart() {
        let table: [(&[&str], Doing); 8] = [
            (&["EpollSelector.select /l/selectors.py"], Doing::Waits),
            (&["select /l/selectors.py"], Doing::Waits),
            (&["do_complete /s/ipykernel/ipkernel.py"], Doing::Else),
            (&[], Doing::Else),
            (
                &["nap /tmp/ipykernel_7/1.py", "run_code /s/IPython/core/interactiveshell.py"],
                Doing::Cell,
            ),
            (
                &[
                    "EpollSelector.select /l/selectors.py",
                    "<module> /tmp/ipykernel_7/1.py",
                    "InteractiveShell.run_code /s/IPython/core/interactiveshell.py",
                ],
                Doing::Cell,
            ),
            (
                &["parse /l/ast.py", "IPythonKernel.do_execute /s/ipykernel/ipkernel.py"],
                Doing::Cell,
            ),
            (&["x /l/x.py", "execute_request /s/ipykernel/kernelbase.py"], Doing::Cell),
        ];
        for (inner, expected) in table {
            assert_eq!(doing(&frames(&[inner, &LOOP].concat())), expected, "{inner:?}");
        }
        assert_eq!(doing(&frames(&LOOP[..2])), Doing::NoKernel);
        assert_eq!(doing(&[]), Doing::NoKernel);
    }

    #[test]
    fn cells_are_known_by_their_names() {
        let named = frames(&[
            "f <ipython-input-12-0a1b>",
            "f /tmp/ipykernel_77/123.py",
            "<module> /s/ipykernel_launcher.py",
            "f <ipython-input-x-0a1b>",
        ]);
        assert_eq!(named.iter().map(is_of_a_cell).collect::<Vec<_>>(), [true, true, false, true]);
        assert_eq!(
            named.iter().map(number_in_name).collect::<Vec<_>>(),
            [Some(12), None, None, None]
        );
    }
}
