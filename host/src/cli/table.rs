//! Tables on a terminal.

use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use std::ops::Range;

/// An empty table whose columns `right` are aligned to the right: numbers.
pub fn table<const N: usize>(header: [&str; N], right: Range<usize>) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(header);
    for column in right {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
