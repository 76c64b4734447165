//! What is stored of a key: when it was touched, when to wake it, its timers, and the guest's state.
//!
//! A slot's bytes: three times as big-endian 64-bit integers, then a row of the codec below. The times stand in front so that the table can set its
//! timers without decoding the row.

use crate::operator::assigner::idle::LIVE;
use crate::plugin::{FunctionSignature, GuestType};
use crate::state::codec::{CodecError, NULL, RowCodec};
use crate::state::store::PaneId;
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryBuilder, BooleanArray, Float64Array, Int64Array, StringArray,
    TimestampMillisecondArray,
};
use arrow::datatypes::DataType;
use std::sync::Arc;

/// Columns of Kindling's own before the guest's.
pub(super) const OWN: usize = 2;
const TIMES: usize = 3;
const TIME_BYTES: usize = 8;

/// `from` of the panes of rows that wait; their start is the event time. A time that no key's own slot has.
pub const WAITING: i64 = 0;

/// What is stored of a key besides the guest's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Greatest event time of its rows.
    pub touched: i64,
    /// The watermark that wakes it, by the timer that is set for it.
    pub armed: i64,
    /// The processing time that wakes it; [`i64::MAX`]: none does.
    pub armed_processing: i64,
    /// Timers of event time, rising.
    pub event: Vec<i64>,
    /// Timers of processing time, rising.
    pub processing: Vec<i64>,
}

impl Kept {
    /// Whether a timer is due at this watermark and processing time.
    pub(super) fn is_due(&self, watermark: i64, now: i64) -> bool {
        self.event.first().is_some_and(|t| *t <= watermark) || self.processing.first().is_some_and(|t| *t <= now)
    }
}

/// Where the rows of an event time wait.
pub(super) fn waiting_pane(time: i64) -> PaneId {
    PaneId { start: time, from: WAITING }
}

/// All panes of waiting rows before a time; none before there is a watermark.
pub(super) fn waiting_before(time: i64) -> Option<std::ops::RangeInclusive<PaneId>> {
    let first = LIVE.start + 1;
    (time > first).then(|| PaneId::range(first, time - 1))
}

/// The codec of what follows the times.
pub(super) fn codec(signature: &FunctionSignature) -> RowCodec {
    let own = std::iter::repeat_n(DataType::Binary, OWN);
    RowCodec::new("state", own.chain(signature.state.iter().map(|f| f.data_type.data_type())).collect())
}

/// The watermark, and the processing time, that wake a slot. What can't be read is looked at with the next epoch, and told.
pub(super) fn armed(state: &[u8]) -> (i64, i64) {
    times(state).map_or((i64::MIN, i64::MAX), |([_, event, processing], _)| (event, processing))
}

/// Whether a slot has timers of event time; yes, where it can't be read.
pub(super) fn has_timers(state: &[u8]) -> bool {
    state.get(TIMES * TIME_BYTES) != Some(&NULL)
}

fn times(state: &[u8]) -> Result<([i64; TIMES], &[u8]), CodecError> {
    let corrupt = || CodecError::Corrupt { what: "state", why: format!("{} bytes are too few", state.len()) };
    let (times, row) = state.split_at_checked(TIMES * TIME_BYTES).ok_or_else(corrupt)?;
    let mut read = [0; TIMES];
    for (time, bytes) in read.iter_mut().zip(times.chunks_exact(TIME_BYTES)) {
        *time = bytes.try_into().map_or(0, i64::from_be_bytes);
    }
    Ok((read, row))
}

/// Reads slots: what Kindling keeps of each, and a column a field of the guest's state.
///
/// # Errors
/// [`CodecError`] where bytes do not read back.
pub(super) fn decode(codec: &RowCodec, states: &[&[u8]]) -> Result<(Vec<Kept>, Vec<ArrayRef>), CodecError> {
    let (mut kept, mut rows) = (Vec::with_capacity(states.len()), Vec::with_capacity(states.len()));
    for state in states {
        let ([touched, armed, armed_processing], row) = times(state)?;
        kept.push(Kept { touched, armed, armed_processing, ..Kept::default() });
        rows.push(row);
    }
    let mut columns = codec.decode(rows.into_iter())?;
    let own: Vec<ArrayRef> = columns.drain(..OWN).collect();
    let (event, processing) = (own[0].as_binary::<i32>(), own[1].as_binary::<i32>());
    for (i, kept) in kept.iter_mut().enumerate() {
        kept.event = timers(event, i);
        kept.processing = timers(processing, i);
    }
    Ok((kept, columns))
}

fn timers(column: &BinaryArray, row: usize) -> Vec<i64> {
    if column.is_null(row) {
        return Vec::new();
    }
    column.value(row).chunks_exact(TIME_BYTES).map(|bytes| bytes.try_into().map_or(0, i64::from_be_bytes)).collect()
}

/// Writes slots: calls `each` with the number of each and its bytes.
///
/// # Errors
/// [`CodecError::Unsupported`]; no type of a guest is.
pub(super) fn encode(
    codec: &RowCodec,
    kept: &[Kept],
    states: Vec<ArrayRef>,
    mut each: impl FnMut(usize, &[u8]),
) -> Result<(), CodecError> {
    let column = |of: &dyn Fn(&Kept) -> &[i64]| -> ArrayRef {
        let mut builder = BinaryBuilder::new();
        for kept in kept {
            let bytes: Vec<u8> = of(kept).iter().flat_map(|t| t.to_be_bytes()).collect();
            builder.append_option((!bytes.is_empty()).then_some(bytes));
        }
        Arc::new(builder.finish())
    };
    let mut columns = vec![column(&|k| &k.event), column(&|k| &k.processing)];
    columns.extend(states);
    let mut bytes = Vec::new();
    codec.encode(&columns, kept.len(), |i, row| {
        let of = &kept[i];
        bytes.clear();
        for time in [of.touched, of.armed, of.armed_processing] {
            bytes.extend_from_slice(&time.to_be_bytes());
        }
        bytes.extend_from_slice(row);
        each(i, &bytes);
    })
}

/// A column a field, of one value each, for the place of a key that has no state.
pub(super) fn blank(signature: &FunctionSignature) -> Vec<ArrayRef> {
    let blank = |data_type: GuestType| -> ArrayRef {
        match data_type {
            GuestType::Boolean => Arc::new(BooleanArray::from(vec![false])),
            GuestType::Int64 => Arc::new(Int64Array::from(vec![0])),
            GuestType::Float64 => Arc::new(Float64Array::from(vec![0.0])),
            GuestType::Timestamp => Arc::new(TimestampMillisecondArray::from(vec![0])),
            GuestType::Utf8 => Arc::new(StringArray::from(vec![""])),
            GuestType::Binary => Arc::new(BinaryArray::from(vec![&b""[..]])),
        }
    };
    signature.state.iter().map(|f| blank(f.data_type)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::{FunctionKind, StateField};

    #[test]
    fn what_is_kept_reads_back() {
        let field = |name: &str, data_type| StateField { name: name.into(), data_type, layout: String::new() };
        let signature = FunctionSignature {
            name: "p".into(),
            kind: FunctionKind::Process,
            doc: String::new(),
            arguments: vec![],
            result: GuestType::Boolean,
            results: Vec::new(),
            state: vec![field("n", GuestType::Int64), field("who", GuestType::Utf8)],
            process: None,
        };
        let codec = codec(&signature);
        let kept = [
            Kept { touched: 7, armed: -3, armed_processing: i64::MAX, event: vec![-3, 9], processing: vec![] },
            Kept { touched: i64::MIN, armed: 1, armed_processing: 4, event: vec![], processing: vec![4] },
        ];
        let states: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![1, 2])), Arc::new(StringArray::from(vec!["a", ""]))];
        let mut slots = Vec::new();
        encode(&codec, &kept, states.clone(), |_, bytes| slots.push(bytes.to_vec())).unwrap();
        assert_eq!(slots.iter().map(|s| armed(s)).collect::<Vec<_>>(), [(-3, i64::MAX), (1, 4)]);
        assert_eq!(slots.iter().map(|s| has_timers(s)).collect::<Vec<_>>(), [true, false]);
        let (read, columns) = decode(&codec, &slots.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
        assert_eq!((read.as_slice(), columns), (&kept[..], states));
        for end in 0..slots[0].len() {
            assert!(decode(&codec, &[&slots[0][..end]]).is_err(), "{end} bytes");
        }
        assert_eq!(blank(&signature).len(), 2);
    }
}
