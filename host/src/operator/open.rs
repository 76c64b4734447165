//! The windows of one key that are open, for people who ask: which of its stored states each is the merge of.

use crate::operator::assigner::Assigner;
use crate::operator::assigner::count::TOTAL;
use crate::operator::assigner::session::Slice;
use crate::operator::counts::Tally;
use crate::operator::sessions::last_times;
use crate::state::codec::CodecError;
use crate::state::store::PaneId;
use std::collections::BTreeMap;

/// An open window of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenWindow {
    /// Start, milliseconds since 1970 UTC; of windows without bounds [`i64::MIN`].
    pub start: i64,
    /// End, milliseconds since 1970 UTC; of windows without bounds [`i64::MAX`].
    pub end: i64,
    /// The stored slots that it is the merge of, by index; at least one.
    pub slots: Vec<usize>,
}

/// The windows of one key that `closed` has not closed, by start; `slots` are the key's panes and encoded states. Rows that came late for some
/// windows, or behind their watermark, count where they will count in the result.
///
/// # Errors
/// [`CodecError`] when a state does not read back.
pub fn open_windows(assigner: &Assigner, closed: i64, slots: &[(PaneId, &[u8])]) -> Result<Vec<OpenWindow>, CodecError> {
    match assigner {
        Assigner::Aligned(_) => {
            let mut windows: BTreeMap<(i64, i64), Vec<usize>> = BTreeMap::new();
            for (i, (pane, _)) in slots.iter().enumerate() {
                for window in assigner.open_windows(*pane, closed) {
                    windows.entry(window).or_default().push(i);
                }
            }
            Ok(windows.into_iter().map(|((start, end), slots)| OpenWindow { start, end, slots }).collect())
        }
        Assigner::Session(session) => {
            let slice = |(pane, state): &(PaneId, &[u8])| last_times(state).map(|(min, max)| Slice { pane: *pane, min, max });
            let slices = slots.iter().map(slice).collect::<Result<Vec<_>, _>>()?;
            let chains = session.chains(&slices).into_iter().filter(|c| session.closes_at(c.max) > closed);
            Ok(chains.map(|c| OpenWindow { start: c.min, end: c.max.saturating_add(session.gap()), slots: c.slices }).collect())
        }
        // A life that begins ahead of the watermark is another than the one before.
        Assigner::Idle(_) => {
            Ok((0..slots.len()).map(|i| OpenWindow { start: i64::MIN, end: i64::MAX, slots: vec![i] }).collect())
        }
        Assigner::Count(count) => {
            let Some((_, state)) = slots.iter().find(|(pane, _)| *pane == TOTAL) else { return Ok(Vec::new()) };
            let Tally { total, base, .. } = Tally::read(state)?;
            let mut windows = Vec::new();
            for (first, end) in count.full(total, total, true) {
                let panes = count.panes(first.max(base), end.min(total));
                let of: Vec<usize> = panes.filter_map(|pane| slots.iter().position(|(p, _)| *p == pane)).collect();
                let times = of.iter().map(|i| last_times(slots[*i].1)).collect::<Result<Vec<_>, _>>()?;
                if let (Some(first), Some(last)) = (times.iter().map(|t| t.0).min(), times.iter().map(|t| t.1).max()) {
                    windows.push(OpenWindow { start: first, end: last.saturating_add(1), slots: of });
                }
            }
            Ok(windows)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::spec::WindowKind;
    use std::time::Duration;

    /// A state whose last two columns are these times.
    fn state(first: i64, last: i64) -> Vec<u8> {
        [&[7, 1][..], &first.to_le_bytes(), &[1], &last.to_le_bytes()].concat()
    }

    fn open(
        kind: WindowKind,
        ttl: Option<Duration>,
        closed: i64,
        slots: &[((i64, i64), Vec<u8>)],
    ) -> Vec<(i64, i64, Vec<usize>)> {
        let assigner = Assigner::new(&kind, Duration::ZERO, Duration::ZERO, ttl);
        let slots: Vec<(PaneId, &[u8])> =
            slots.iter().map(|((start, from), s)| (PaneId { start: *start, from: *from }, s.as_slice())).collect();
        let open = open_windows(&assigner, closed, &slots).unwrap();
        open.into_iter().map(|w| (w.start, w.end, w.slots)).collect()
    }

    #[test]
    fn a_session_is_shown_whole() {
        let kind = WindowKind::Session { gap: Duration::from_millis(10) };
        let plain = |start: i64| (start, i64::MIN);
        // Two slices of a session, one of another; and one of a row that came behind its watermark and joins the first.
        let slots = [(plain(0), state(3, 9)), (plain(10), state(12, 14)), (plain(40), state(41, 41)), ((20, 23), state(22, 22))];
        assert_eq!(open(kind, None, 20, &slots), [(3, 32, vec![0, 1, 3]), (41, 51, vec![2])]);
    }

    #[test]
    fn count_windows_that_are_not_full() {
        let kind = WindowKind::Count { every: 4, slide: 2 };
        let total = (TOTAL.start, TOTAL.from);
        let slots = [((2, 2), state(30, 40)), ((4, 4), state(50, 50)), (total, 5i64.to_le_bytes().to_vec())];
        assert_eq!(open(kind, None, i64::MIN, &slots), [(30, 51, vec![0, 1]), (50, 51, vec![1])]);
        // Begun anew with row 4: nothing from before it counts.
        let tally = [5i64, 4, 50].map(i64::to_le_bytes).concat();
        let slots = [((2, 2), state(30, 40)), ((4, 4), state(50, 50)), (total, tally)];
        let ttl = Some(Duration::from_secs(1));
        assert_eq!(open(kind, ttl, i64::MIN, &slots), [(50, 51, vec![1]), (50, 51, vec![1])]);
        let assigner = Assigner::new(&kind, Duration::ZERO, Duration::ZERO, None);
        assert!(open_windows(&assigner, 0, &[(TOTAL, b"no")]).is_err());
    }
}
