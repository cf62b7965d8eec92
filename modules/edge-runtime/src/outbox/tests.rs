//! Both kinds of queue against the same model, and the one on disk against kills and damage.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use proptest::prelude::*;

use super::*;

fn drain(outbox: &Outbox) -> Vec<String> {
    std::iter::from_fn(|| outbox.next().unwrap())
        .map(|record| String::from_utf8(record.bytes).unwrap())
        .collect()
}

fn pushed(outbox: &Outbox, range: std::ops::Range<u32>) -> Vec<String> {
    let texts: Vec<String> = range.map(|n| format!("message {n}")).collect();
    for text in &texts {
        outbox.push(text.as_bytes()).unwrap();
    }
    texts
}

#[test]
fn in_order_again_after_a_rewind_and_no_more_after_confirmation() {
    let folder = tempfile::tempdir().unwrap();
    for directory in [None, Some(folder.path())] {
        let outbox = Outbox::open("q", directory, 1 << 20).unwrap();
        let texts = pushed(&outbox, 0..5);
        assert_eq!(drain(&outbox), texts);
        assert_eq!(drain(&outbox), Vec::<String>::new());
        outbox.confirm(0).unwrap();
        outbox.confirm(3).unwrap();
        assert_eq!(outbox.depth(), 3);
        outbox.rewind();
        assert_eq!(drain(&outbox), ["message 1", "message 2", "message 4"]);
        for sequence in 0..5 {
            outbox.confirm(sequence).unwrap();
        }
        // Of what was never given out: ignored.
        outbox.confirm(77).unwrap();
        outbox.rewind();
        assert_eq!((drain(&outbox), outbox.depth(), outbox.dropped()), (vec![], 0, 0));
    }
}

#[test]
fn at_the_bound_the_oldest_go_and_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    for directory in [None, Some(folder.path())] {
        let outbox = Outbox::open("q", directory, 64 << 10).unwrap();
        let big = vec![b'x'; 1000];
        for _ in 0..200 {
            outbox.push(&big).unwrap();
        }
        let records: Vec<u64> = std::iter::from_fn(|| outbox.next().unwrap())
            .map(|record| record.sequence)
            .collect();
        assert!(
            outbox.dropped() > 100 && outbox.dropped() < 170,
            "{}",
            outbox.dropped()
        );
        assert_eq!(outbox.depth() + outbox.dropped(), 200);
        // The newest, without a gap.
        assert_eq!(records, (outbox.dropped()..200).collect::<Vec<_>>());
    }
    let bytes: u64 = fs::read_dir(folder.path().join("q"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes < 80 << 10, "{bytes}");
    let error = Outbox::open("q", None, 1 << 30)
        .unwrap()
        .push(&vec![0; MAX_RECORD_BYTES + 1]);
    assert!(matches!(error, Err(QueueError::TooLarge { .. })));
}

#[test]
fn a_queue_outlives_its_process() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Outbox::open("q", Some(folder.path()), 1 << 20).unwrap();
    let outbox = open();
    pushed(&outbox, 0..10);
    for sequence in 0..4 {
        outbox.confirm(sequence).unwrap();
    }
    let again = Outbox::open("q", Some(folder.path()), 1 << 20);
    assert!(matches!(again, Err(QueueError::InUse { .. })));
    drop(outbox);
    let outbox = open();
    let texts = pushed(&outbox, 10..12);
    let got = drain(&outbox);
    assert_eq!((got.len(), &got[0][..], &got[6..]), (8, "message 4", &texts[..]));
}

#[test]
fn a_torn_record_is_cut_off_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Outbox::open("q", Some(folder.path()), 1 << 20).unwrap();
    pushed(&open(), 0..3);
    let segment = folder.path().join("q").join(format!("{:020}.segment", 0));
    let whole = fs::read(&segment).unwrap();
    for cut in 1..whole.len() / 3 {
        fs::write(&segment, &whole[..whole.len() - cut]).unwrap();
        let outbox = open();
        assert_eq!(drain(&outbox), ["message 0", "message 1"], "cut {cut}");
        outbox.push(b"after").unwrap();
        assert_eq!(drain(&outbox), ["after"]);
    }
    // A torn confirmation counts as not there.
    fs::write(&segment, &whole).unwrap();
    let list = folder.path().join("q/confirmed");
    open().confirm(0).unwrap();
    let one = fs::read(&list).unwrap();
    fs::write(&list, [&one[..], &one[..7]].concat()).unwrap();
    let outbox = open();
    assert_eq!(drain(&outbox), ["message 1", "message 2"]);
    outbox.confirm(1).unwrap();
    drop(outbox);
    assert_eq!(drain(&open()), ["message 2"]);
}

#[test]
fn what_the_disk_changes_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = Outbox::open("q", Some(folder.path()), 1 << 20).unwrap();
    pushed(&outbox, 0..3);
    let segment = folder.path().join("q").join(format!("{:020}.segment", 0));
    let mut bytes = fs::read(&segment).unwrap();
    bytes[20] ^= 1;
    fs::write(&segment, bytes).unwrap();
    assert_eq!(drain(&outbox), Vec::<String>::new());
    assert_eq!((outbox.dropped(), outbox.depth()), (3, 0));
    outbox.push(b"after").unwrap();
    assert_eq!(drain(&outbox), ["after"]);
}

#[test]
fn the_list_of_confirmations_stays_short() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = Outbox::open("q", Some(folder.path()), 256 << 10).unwrap();
    for sequence in 0..20_000 {
        outbox.push(b"x").unwrap();
        outbox.confirm(sequence).unwrap();
    }
    assert_eq!((outbox.depth(), outbox.dropped()), (0, 0));
    assert!(fs::metadata(folder.path().join("q/confirmed")).unwrap().len() <= 64 << 10);
    assert!(fs::read_dir(folder.path().join("q")).unwrap().count() < 6);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Pushes, confirmations in any order, rewinds and new processes, against a set.
    #[test]
    fn like_a_set(steps in proptest::collection::vec((0u8..5, 0u64..40), 1..80)) {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = Some(Outbox::open("q", Some(folder.path()), 1 << 20).unwrap());
        let memory = Outbox::open("q", None, 1 << 20).unwrap();
        let (mut open, mut given, mut end) = (BTreeMap::new(), BTreeSet::new(), 0u64);
        for (what, number) in steps {
            let queue = disk.as_ref().unwrap();
            match what {
                0 | 1 => {
                    let text = format!("{end}");
                    queue.push(text.as_bytes()).unwrap();
                    memory.push(text.as_bytes()).unwrap();
                    open.insert(end, text);
                    end += 1;
                }
                2 => {
                    let expected = open.iter().find(|(sequence, _)| !given.contains(*sequence))
                        .map(|(sequence, text)| (*sequence, text.clone().into_bytes()));
                    for queue in [queue, &memory] {
                        let got = queue.next().unwrap().map(|record| (record.sequence, record.bytes));
                        prop_assert_eq!(&got, &expected);
                    }
                    given.extend(expected.map(|(sequence, _)| sequence));
                }
                3 if given.contains(&number) => {
                    queue.confirm(number).unwrap();
                    memory.confirm(number).unwrap();
                    open.remove(&number);
                }
                4 => {
                    memory.rewind();
                    if number % 2 == 0 {
                        queue.rewind();
                    } else {
                        // Confirmations beyond a gap are forgotten by a new process: those are sent again.
                        let first_open = open.keys().next().copied().unwrap_or(end);
                        let gap = (first_open..end).any(|sequence| !open.contains_key(&sequence));
                        if gap {
                            queue.rewind();
                        } else {
                            drop(disk.take());
                            disk = Some(Outbox::open("q", Some(folder.path()), 1 << 20).unwrap());
                        }
                    }
                    given.clear();
                }
                _ => {}
            }
            prop_assert_eq!(disk.as_ref().unwrap().depth(), open.len() as u64);
            prop_assert_eq!(memory.depth(), open.len() as u64);
        }
    }
}
