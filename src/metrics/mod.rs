//! Counters, histograms and their text format for Prometheus.
//!
//! There is no registry: each owner keeps its counters as fields and writes them out itself.

mod family;
mod histogram;
mod text;

pub(crate) use family::{Count, Family};
pub(crate) use histogram::Histogram;
pub(crate) use text::{Kind, Metric, Text, borrowed};
