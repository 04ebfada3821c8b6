//! Walks the calls of a PHP process from its executor globals, innermost first. What it reads
//! changes while it reads and may be anything: every list has an end here, and what cannot be
//! followed ends the walk with a note, never with an error.

use std::collections::HashMap;

use crate::report::stack::{FRAMES_MAX, Frame, Place, State, TEXT_MAX, bounded};
use crate::trace::php::layout::{Layout, same};
use crate::trace::remote::{Pages, RemoteMemory, Trouble};

/// Where PHP's globals are in that process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Globals {
    pub layout: Layout,
    pub executor: u64,
    pub sapi: u64,
}

/// One look.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    pub state: State,
    pub script: Option<String>,
    pub request_uri: Option<String>,
    pub memory: Option<u64>,
    pub frames: Vec<Frame>,
    pub at: Option<Place>,
    pub note: Option<String>,
}

/// A list that changes under us is read again so often; then what was had is told, with a note.
const TRIES: u32 = 3;

/// Fetches everything anew and looks.
///
/// # Errors
/// The globals themselves cannot be read.
pub fn sample<M: RemoteMemory>(
    pages: &mut Pages<'_, M>,
    globals: &Globals,
) -> Result<Sample, Trouble> {
    let mut best: Option<Walk> = None;
    for _ in 0..TRIES {
        pages.forget();
        let walk = walk(pages, globals)?;
        let whole = walk.note.is_none();
        if whole || best.as_ref().is_none_or(|best| best.calls.len() < walk.calls.len()) {
            best = Some(walk);
        }
        if whole {
            break;
        }
    }
    let walk = best.unwrap_or_default();
    let started = pages.number::<1>(globals.sapi.wrapping_add(same::sapi::STARTED));
    let state = match (walk.busy, started) {
        (true, _) => State::Busy,
        // Before the first of the script's code and after its last a worker still works for the
        // request: reads what was uploaded, compiles, sends.
        (false, Ok(1)) => State::Busy,
        (false, Ok(0)) => State::Idle,
        (false, _) => State::Unknown,
    };
    // Between requests these point to where the last one's were.
    let told = |pages: &mut Pages<'_, M>, field| {
        let text = c_pointer(pages, globals.sapi.wrapping_add(field)).ok().flatten();
        text.filter(|_| state == State::Busy)
    };
    let script = told(pages, same::sapi::SCRIPT).map(|text| shown(&text));
    let request_uri = told(pages, same::sapi::URI).map(|text| without_query(&text));
    let memory = memory(pages, globals).map(|memory| memory.size);
    let (frames, at) = told_as_calls(&walk);
    Ok(Sample { state, script, request_uri, memory, frames, at, note: walk.note })
}

/// What `memory_get_usage` and `memory_get_peak_usage` would answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memory {
    pub size: u64,
    pub peak: u64,
}

/// PHP's heap is in no symbol, but the stack of its frames is allocated from it. None: this
/// process uses another allocator (`USE_ZEND_ALLOC=0`), or what stands there is no heap.
pub fn memory<M: RemoteMemory>(pages: &mut Pages<'_, M>, globals: &Globals) -> Option<Memory> {
    use same::heap::{CHUNK, IN_CHUNK, PEAK, SIZE};
    let stack = pages.pointer(globals.executor.wrapping_add(globals.layout.vm_stack())).ok()?;
    let heap = pages.pointer(stack & !(CHUNK - 1)).ok()?;
    if heap % CHUNK != IN_CHUNK {
        return None;
    }
    let (size, peak) = (pages.pointer(heap + SIZE).ok()?, pages.pointer(heap + PEAK).ok()?);
    // User space ends at 2^47 (or 2^56): a size beyond it is something else.
    (size <= peak && peak < 1 << 47).then_some(Memory { size, peak })
}

/// A call as it lies in memory.
#[derive(Clone, PartialEq, Debug)]
struct Call {
    address: u64,
    code: Code,
    name: Option<String>,
    /// Where it stands. An internal function stands nowhere.
    place: Option<(String, Option<Op>)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Code {
    Internal,
    User,
    Eval,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Op {
    line: u32,
    /// What kind of `include`, if that is what it does.
    include: Option<&'static str>,
}

#[derive(Default)]
struct Walk {
    busy: bool,
    calls: Vec<Call>,
    note: Option<String>,
}

fn walk<M: RemoteMemory>(pages: &mut Pages<'_, M>, globals: &Globals) -> Result<Walk, Trouble> {
    let field = globals.executor.wrapping_add(globals.layout.current_execute_data);
    let mut at = pages.pointer(field)?;
    let mut walk = Walk { busy: at != 0, ..Walk::default() };
    let mut functions = HashMap::new();
    let mut seen = 0;
    while at != 0 {
        // A generator that delegates leaves a frame without a function: it counts, so that a
        // ring of such frames ends as well.
        if seen == FRAMES_MAX {
            walk.note = Some(if walk.calls.iter().any(|call| call.address == at) {
                "the list of frames leads back to itself".to_owned()
            } else {
                format!("more than {FRAMES_MAX} frames: the outer ones are left out")
            });
            break;
        }
        seen += 1;
        if walk.calls.iter().any(|call| call.address == at) {
            walk.note = Some("the list of frames leads back to itself".to_owned());
            break;
        }
        match call(pages, globals.layout, at, &mut functions) {
            Ok((call, next)) => {
                walk.calls.extend(call);
                at = next;
            }
            Err(Wild::Memory(trouble @ (Trouble::Gone | Trouble::Denied | Trouble::Failed(_)))) => {
                return Err(trouble);
            }
            Err(wild) => {
                walk.note = Some(format!("the list of frames breaks off: {wild}"));
                break;
            }
        }
    }
    Ok(walk)
}

/// Why a frame cannot be followed.
#[derive(Debug)]
enum Wild {
    Memory(Trouble),
    /// That is no function.
    Kind(u8),
}

impl From<Trouble> for Wild {
    fn from(trouble: Trouble) -> Wild {
        Wild::Memory(trouble)
    }
}

impl std::fmt::Display for Wild {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Wild::Memory(trouble) => write!(f, "{trouble}"),
            Wild::Kind(kind) => write!(f, "there is no kind {kind} of function"),
        }
    }
}

#[derive(Clone)]
struct Function {
    code: Code,
    name: Option<String>,
    file: Option<String>,
    /// From the first instruction to behind the last.
    ops: (u64, u64),
}

/// The call whose frame lies at `at`, and where its caller's does.
fn call<M: RemoteMemory>(
    pages: &mut Pages<'_, M>,
    layout: Layout,
    at: u64,
    functions: &mut HashMap<u64, Function>,
) -> Result<(Option<Call>, u64), Wild> {
    use same::frame::{FUNC, OPLINE, PREV, SIZE};
    let mut frame = [0; SIZE];
    pages.read(at, &mut frame)?;
    let next = word(&frame, PREV);
    let function = word(&frame, FUNC);
    if function == 0 {
        return Ok((None, next));
    }
    let function = match functions.get(&function) {
        Some(known) => known.clone(),
        None => {
            let read = function_at(pages, layout, function)?;
            functions.insert(function, read.clone());
            read
        }
    };
    // The engine keeps it in a register and writes it down only where it may be asked for it:
    // before that the frame holds what an earlier one left there.
    let at_op = word(&frame, OPLINE);
    let is_own = (function.ops.0..function.ops.1).contains(&at_op);
    let place = function.file.map(|file| (file, if is_own { op(pages, at_op) } else { None }));
    Ok((Some(Call { address: at, code: function.code, name: function.name, place }), next))
}

fn function_at<M: RemoteMemory>(
    pages: &mut Pages<'_, M>,
    layout: Layout,
    at: u64,
) -> Result<Function, Wild> {
    use same::function::{EVAL, INTERNAL, NAME, SCOPE, TYPE, USER};
    let mut head = [0; SCOPE + 8];
    pages.read(at, &mut head)?;
    let code = match head[TYPE] {
        INTERNAL => Code::Internal,
        USER => Code::User,
        EVAL => Code::Eval,
        other => return Err(Wild::Kind(other)),
    };
    let name = match word(&head, NAME) {
        0 => None,
        name => Some(string(pages, name)?),
    };
    let name = match (name, word(&head, SCOPE)) {
        (Some(name), scope) if scope != 0 => {
            let class = pages.pointer(scope.wrapping_add(same::class::NAME))?;
            Some(bounded(format!("{}::{name}", string(pages, class)?)))
        }
        (name, _) => name,
    };
    if code == Code::Internal {
        return Ok(Function { code, name, file: None, ops: (0, 0) });
    }
    let file = pages.pointer(at.wrapping_add(layout.filename))?;
    let file = Some(string(pages, file)?);
    let first = pages.pointer(at.wrapping_add(layout.opcodes))?;
    let count = pages.number::<4>(at.wrapping_add(layout.last))?;
    let ops = (first, first.saturating_add(count * same::op::SIZE as u64));
    Ok(Function { code, name, file, ops })
}

/// The instruction that a frame stands at. None: not known, which is no reason to stop.
fn op<M: RemoteMemory>(pages: &mut Pages<'_, M>, at: u64) -> Option<Op> {
    use same::op::{EXTENDED, INCLUDE_OR_EVAL, LINE, OPCODE, SIZE};
    let mut op = [0; SIZE];
    pages.read(at, &mut op).ok()?;
    let half = |at: usize| u32::from_le_bytes([op[at], op[at + 1], op[at + 2], op[at + 3]]);
    let include = (op[OPCODE] == INCLUDE_OR_EVAL).then(|| match half(EXTENDED) {
        1 => "eval",
        2 => "include",
        4 => "include_once",
        8 => "require",
        16 => "require_once",
        _ => "include",
    });
    // While an exception is thrown a frame stands at an instruction of the engine's own, which
    // has no line.
    let line = half(LINE);
    (line != 0).then_some(Op { line, include })
}

/// As PHP's own backtraces have it: each function, and where it was called. The script itself was
/// called by nobody: it is shown only where nothing else is, at the place where it stands.
fn told_as_calls(walk: &Walk) -> (Vec<Frame>, Option<Place>) {
    let calls = &walk.calls;
    let mut frames = Vec::new();
    for (index, call) in calls.iter().enumerate() {
        let caller = calls.get(index + 1);
        // Frames of the engine's own, such as the bottom of a fiber.
        if call.name.is_none() && call.code == Code::Internal {
            continue;
        }
        let place = caller.and_then(|caller| caller.place.as_ref());
        let op = place.and_then(|(_, op)| *op);
        let function = match (&call.name, call.code) {
            (Some(name), _) => name.clone(),
            (None, Code::Eval) => "eval()".to_owned(),
            (None, _) => match (caller, op.and_then(|op| op.include)) {
                (Some(_), Some(include)) => {
                    let file = call.place.as_ref().map_or("", |(file, _)| file);
                    bounded(format!("{include}({file})"))
                }
                _ => "{main}".to_owned(),
            },
        };
        let address = format!("{:#x}", call.address);
        if caller.is_none() && function == "{main}" && walk.note.is_none() {
            if frames.is_empty() {
                let (file, op) = call.place.clone().unzip();
                let line = op.flatten().map(|op| op.line);
                frames.push(Frame { function, file, line, address });
            }
            continue;
        }
        let (file, line) = (place.map(|(file, _)| file.clone()), op.map(|op| op.line));
        frames.push(Frame { function, file, line, address });
    }
    let at = calls.first().and_then(|innermost| innermost.place.clone());
    let at = at.and_then(|(file, op)| Some(Place { file, line: op?.line }));
    (frames, at)
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// A `zend_string`.
pub(super) fn string<M: RemoteMemory>(
    pages: &mut Pages<'_, M>,
    at: u64,
) -> Result<String, Trouble> {
    let len = pages.pointer(at.wrapping_add(same::string::LEN))?;
    // One more than is shown, so that what is longer is seen to be.
    let text = pages.text(at.wrapping_add(same::string::TEXT), len, TEXT_MAX + 1)?;
    Ok(shown(&text))
}

/// What a pointer to a C string points to; none where it points nowhere.
pub(super) fn c_pointer<M: RemoteMemory>(
    pages: &mut Pages<'_, M>,
    field: u64,
) -> Result<Option<Vec<u8>>, Trouble> {
    match pages.pointer(field)? {
        0 => Ok(None),
        at => pages.c_text(at, TEXT_MAX + 1).map(Some),
    }
}

/// Secrets travel in queries.
pub(super) fn without_query(uri: &[u8]) -> String {
    shown(uri.split(|byte| *byte == b'?').next().unwrap_or_default())
}

pub(super) fn shown(text: &[u8]) -> String {
    bounded(String::from_utf8_lossy(text).into_owned())
}
