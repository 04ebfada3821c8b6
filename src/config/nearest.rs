//! Which known word somebody may have meant. Pure.

/// The known word that is nearest to what was written, if any is near: a letter or so in three
/// wrong, in another case, with `-` for `_`, or cut short.
pub fn nearest<'k>(written: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let written = written.to_lowercase().replace('-', "_");
    let near = |word: &'k str| {
        let plain = word.to_lowercase();
        let allowed = (plain.len().min(written.len()) / 3).max(1);
        if plain.len().abs_diff(written.len()) <= allowed {
            let distance = distance(written.as_bytes(), plain.as_bytes());
            if distance <= allowed && distance < plain.len() {
                return Some((distance, word));
            }
        }
        let cut =
            written.len() >= 4 && (plain.starts_with(&written) || written.starts_with(&plain));
        (cut && plain.len() >= 4).then_some((allowed + 1, word))
    };
    known.into_iter().filter_map(near).min_by_key(|(distance, _)| *distance).map(|(_, word)| word)
}

/// How many letters must be put in, taken out, replaced or swapped with their neighbour
/// (optimal string alignment).
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let replaced = last[j] + usize::from(a[i] != b[j]);
            let mut best = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn finds_what_was_meant() {
        let known = ["threshold", "warning", "dry_run", "grace", "gate", "name", "min_share"];
        for (written, expected) in [
            ("threshhold", Some("threshold")),
            ("treshold", Some("threshold")),
            ("thershold", Some("threshold")),
            ("Threshold", Some("threshold")),
            ("dry-run", Some("dry_run")),
            ("warn", Some("warning")),
            ("minshare", Some("min_share")),
            ("gat", Some("gate")),
            ("nmae", Some("name")),
            ("signal", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, known), expected, "{written}");
        }
    }

    proptest! {
        #[test]
        fn distance_is_none_to_itself_and_the_same_both_ways(a in "[abc]{0,8}", b in "[abc]{0,8}") {
            let (a, b) = (a.as_bytes(), b.as_bytes());
            prop_assert_eq!(distance(a, a), 0);
            prop_assert_eq!(distance(a, b), distance(b, a));
            prop_assert!(distance(a, b) <= a.len().max(b.len()));
        }

        #[test]
        fn takes_any_text(written in ".{0,40}") {
            let _ = nearest(&written, ["threshold", "gate"]);
        }
    }
}
