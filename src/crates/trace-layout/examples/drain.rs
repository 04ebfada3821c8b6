//! Reads a trace file beside its writer until tracing is off, and tells how many records were read,
//! lost and bad: `drain FILE`. A record is bad when it is whole by its number and wrong inside.

use std::fs::File;
use std::os::unix::fs::FileExt;

use trace_layout::{Kind, PAGE, SLOT, Tracing, parse_header, parse_record, record_offset};

fn main() -> std::io::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_default();
    let file = File::open(path)?;
    let (mut page, mut slot) = ([0; PAGE], [0; SLOT]);
    let (mut next, mut read, mut lost, mut bad) = (0, 0_u64, 0_u64, 0_u64);
    println!("reading");
    loop {
        file.read_exact_at(&mut page, 0)?;
        let Ok(header) = parse_header(&page) else { continue };
        let slots = u64::from(header.slots);
        // What the writer has gone past is gone; so is what it may be at just now.
        if header.head > next + slots {
            lost += header.head - slots - next;
            next = header.head - slots;
        }
        while next < header.head {
            file.read_exact_at(&mut slot, record_offset(next, header.slots) as u64)?;
            let mut again = [0; 8];
            file.read_exact_at(&mut again, record_offset(next, header.slots) as u64)?;
            match parse_record(&slot, next) {
                Ok(record) if again == slot[..8] => {
                    read += 1;
                    let is_whole = match record.kind {
                        Kind::Enter => !record.function.is_empty() && record.call > 0,
                        Kind::Leave => record.call > 0 && record.function.is_empty(),
                        _ => true,
                    };
                    bad += u64::from(!is_whole);
                }
                _ => lost += 1,
            }
            next += 1;
        }
        if header.tracing != Tracing::On && next == header.head {
            break;
        }
    }
    println!("{read} {lost} {bad}");
    Ok(())
}
