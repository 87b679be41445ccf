//! Reference of all keys, made of the doc comments of the types.

use documented::{Documented, DocumentedFields};

use super::file::HookFile;
use super::{
    Admin, Announce, Config, Eject, Fastway, Health, Host, Kcp, Limits, Listener, Peek,
    ProxyHeader, Resolve, Scp, Snet, Tcp, Upstream,
};

const PREAMBLE: &str = "\
# Configuration reference

Printed by `stablegate reference` from the program's own types.

The file is YAML, of at most 16 MiB. Unknown keys, duplicate keys and values out of their range are
errors that name file, line and key; `stablegate check` finds them. So are unknown tags such as `!env`
and variables such as `${NAME}`: nothing is put in their place. Comments and uses of an anchor may be
as many as you like. Durations are written with their units, `30s` or `100ms`, and so are sizes,
`64KiB`. Relative paths are relative to the directory of the file.

The blocks `scp`, `snet`, `tcp`, `kcp` and `fastway` may stand at the top, for all listeners, and in
a listener, where each key that is set goes before that at the top.
";

/// Returns the meaning of every key of a configuration, as Markdown.
pub fn reference() -> String {
    let mut text = PREAMBLE.to_owned();
    section::<Config>("The file", &mut text);
    section::<Admin>("`admin`", &mut text);
    section::<Listener>("`listeners`", &mut text);
    section::<Peek>("`listeners[].peek`", &mut text);
    section::<Limits>("`listeners[].limits`", &mut text);
    section::<ProxyHeader>("`listeners[].proxy_header`", &mut text);
    section::<Scp>("`scp`", &mut text);
    section::<Snet>("`snet`", &mut text);
    section::<Tcp>("`tcp`", &mut text);
    section::<Kcp>("`kcp`", &mut text);
    section::<Fastway>("`fastway`", &mut text);
    section::<Upstream>("`upstream`", &mut text);
    section::<Resolve>("`upstream.resolve`", &mut text);
    section::<Health>("`upstream.health`", &mut text);
    section::<Eject>("`upstream.eject`", &mut text);
    section::<Host>("`hosts`", &mut text);
    section::<HookFile>("`hooks`", &mut text);
    section::<Announce>("`announce`", &mut text);
    text
}

fn section<T: Documented + DocumentedFields>(title: &str, text: &mut String) {
    text.push_str(&format!("\n## {title}\n\n{}\n\n", in_yaml(T::DOCS)));
    for (key, doc) in T::FIELD_NAMES.iter().zip(T::FIELD_DOCS) {
        let doc = in_yaml(doc).replace('\n', "\n  ");
        let key = key.trim_start_matches("r#");
        text.push_str(&format!("- **`{key}`**: {doc}\n"));
    }
}

/// Returns a doc comment without what concerns only users of the Rust types.
fn in_yaml(doc: &str) -> String {
    doc.replace(" (`None`)", "")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_document_is_up_to_date() {
        let document = include_str!("../../docs/configuration.md");
        assert!(
            document == super::reference(),
            "run: stablegate reference > docs/configuration.md"
        );
    }
}
