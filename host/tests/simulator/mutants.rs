//! Deliberate defects of what stands around the job: proof that the simulator can fail.

/// A defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The results of some epochs are written twice.
    OutputsTwice,
    /// The source offsets are not part of the transaction.
    OffsetsLeftOut,
    /// A restart begins without the partitions' watermarks.
    WatermarksLost,
    /// A restart begins without the watermark that windows were closed up to.
    ClosedLost,
    /// Now and then a record of the changelog is lost.
    ChangeLost,
    /// An older process commits beside the newer one.
    FenceIgnored,
    /// A commit that did not take effect is told as one that did.
    CommitLost,
    /// A restart reads a row again.
    RowAgain,
    /// A restart skips a row.
    RowSkipped,
    /// Readers see what an aborted transaction wrote.
    AbortedRead,
    /// A restart begins without the state of the operations behind the first.
    LaterStateLost,
    /// Now and then the changelog has nothing of what an epoch changed in them.
    LaterChangesLost,
}

impl Mutant {
    pub const ALL: [Self; 10] = [
        Self::OutputsTwice,
        Self::OffsetsLeftOut,
        Self::WatermarksLost,
        Self::ClosedLost,
        Self::ChangeLost,
        Self::FenceIgnored,
        Self::CommitLost,
        Self::RowAgain,
        Self::RowSkipped,
        Self::AbortedRead,
    ];

    /// Those that only operations behind the first have.
    pub const LATER: [Self; 2] = [Self::LaterStateLost, Self::LaterChangesLost];
}
