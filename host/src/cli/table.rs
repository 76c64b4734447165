//! Tables on a terminal.

use comfy_table::{CellAlignment, Row, Table, presets::UTF8_FULL_CONDENSED};
use std::ops::Range;

/// An empty table without a header.
pub fn bare() -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    table
}

/// An empty table whose columns `right` are aligned to the right: numbers.
pub fn table(header: impl Into<Row>, right: Range<usize>) -> Table {
    let mut table = bare();
    table.set_header(header);
    for column in right {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
