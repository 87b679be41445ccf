//! Counting, and the text in which Prometheus reads it.
//!
//! There is no registry: what counts is a field of whoever counts, and is written out by whoever
//! knows it.

mod family;
mod histogram;
mod text;

pub(crate) use family::{Count, Family};
pub(crate) use histogram::Histogram;
pub(crate) use text::{Kind, Metric, Text, borrowed};
