//! Text format of Prometheus, version 0.0.4.

use std::borrow::Cow;
use std::fmt::{Display, Write};
use std::ops::Deref;

use super::family::{Count, Family, Labels};
use super::histogram::Histogram;

/// Kind of a metric family.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Metric declared once: its members, and the kind, name and help under which it is written.
pub(crate) struct Metric<const N: usize, T> {
    kind: Kind,
    name: &'static str,
    help: &'static str,
    members: Family<N, T>,
}

/// Value that a metric has for each set of labels.
pub(crate) trait Sample {
    /// Writes the value into the family that was begun last.
    fn write(&self, text: &mut Text, labels: &[(&str, &str)]);
}

impl<const N: usize, T: Default> Metric<N, T> {
    pub fn new(
        kind: Kind,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; N],
    ) -> Self {
        Self {
            kind,
            name,
            help,
            members: Family::new(labels),
        }
    }
}

impl<const N: usize, T> Deref for Metric<N, T> {
    type Target = Family<N, T>;

    fn deref(&self) -> &Self::Target {
        &self.members
    }
}

impl Sample for Count {
    fn write(&self, text: &mut Text, labels: &[(&str, &str)]) {
        text.sample(labels, self.get());
    }
}

impl Sample for Histogram {
    fn write(&self, text: &mut Text, labels: &[(&str, &str)]) {
        text.histogram(labels, self);
    }
}

/// Text that families of samples are appended to.
#[derive(Debug, Default)]
pub(crate) struct Text {
    text: String,
    name: Cow<'static, str>,
}

impl Text {
    /// Begins a family; its samples follow.
    pub fn family(&mut self, kind: Kind, name: impl Into<Cow<'static, str>>, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.name = name.into();
        let name = &self.name;
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Adds a sample to the family.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.line("", labels, None, value);
    }

    /// Writes a family of one sample.
    pub fn single(&mut self, kind: Kind, name: &'static str, help: &str, value: impl Display) {
        self.family(kind, name, help);
        self.sample(&[], value);
    }

    /// Writes a family with all its members.
    pub fn metric<const N: usize, T: Default + Sample>(&mut self, metric: &Metric<N, T>) {
        self.family(metric.kind, metric.name, metric.help);
        for (labels, value) in metric.all() {
            value.write(self, &borrowed(&labels));
        }
    }

    /// Adds a histogram to the family.
    pub fn histogram(&mut self, labels: &[(&str, &str)], histogram: &Histogram) {
        let (bounds, all) = histogram.cumulative();
        for (bound, count) in bounds {
            self.line("_bucket", labels, Some(&bound.to_string()), count);
        }
        self.line("_bucket", labels, Some("+Inf"), all);
        self.line("_sum", labels, None, histogram.seconds());
        self.line("_count", labels, None, all);
    }

    pub fn into_string(self) -> String {
        self.text
    }

    fn line(
        &mut self,
        suffix: &str,
        labels: &[(&str, &str)],
        le: Option<&str>,
        value: impl Display,
    ) {
        let text = &mut self.text;
        text.push_str(&self.name);
        text.push_str(suffix);
        let labels = labels.iter().copied().chain(le.map(|le| ("le", le)));
        let mut before = '{';
        for (label, value) in labels {
            text.push(before);
            before = ',';
            let _ = write!(text, "{label}=\"");
            for c in value.chars() {
                match c {
                    '\\' => text.push_str("\\\\"),
                    '"' => text.push_str("\\\""),
                    '\n' => text.push_str("\\n"),
                    c => text.push(c),
                }
            }
            text.push('"');
        }
        if before == ',' {
            text.push('}');
        }
        let _ = writeln!(text, " {value}");
    }
}

/// Borrows labels in the form that [`Text::sample`] takes.
pub(crate) fn borrowed(labels: &Labels) -> Vec<(&str, &str)> {
    labels
        .iter()
        .map(|(label, value)| (*label, &**value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_written_as_prometheus_reads_them() {
        let mut text = Text::default();
        text.single(Kind::Gauge, "a", "What it is.", 1.5);
        let family: Metric<2, Count> = Metric::new(Kind::Counter, "b_total", "More.", ["x", "y"]);
        family.with(["1", "\"a\\b\nc\""]).add(3);
        family.with(["1", "\"a\\b\nc\""]).add(4);
        text.metric(&family);
        let expected = "# HELP a What it is.\n# TYPE a gauge\na 1.5\n\
            # HELP b_total More.\n# TYPE b_total counter\n\
            b_total{x=\"1\",y=\"\\\"a\\\\b\\nc\\\"\"} 7\n";
        assert_eq!(text.into_string(), expected);
    }
}
