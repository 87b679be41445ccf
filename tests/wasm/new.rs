//! What `hook new` writes, built as it says itself.
//!
//! Plugins are built by other compilers: `STABLEGATE_BUILD` names the languages to try, of `c` and
//! `rust`, with a comma between two.

use std::path::Path;

use tokio::process::Command;

use crate::common::run;

async fn check(directory: &Path, program: &str) {
    let config = format!(
        "listeners: [{{name: game, bind: ['tcp://127.0.0.1:0'], session: scp, hooks: [my-hook]}}]\n\
         hosts: [{{name: echo, addr: 'builtin:echo'}}]\n\
         hooks: [{{name: my-hook, {program}}}]\n"
    );
    std::fs::write(directory.join("config.yaml"), config).unwrap();
    let checked = run(directory, &["check"]).await;
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    let (_, file) = program.split_once(": ").unwrap();
    let asked = ["hook", "call", file, "access", "--timeout", "10s"];
    let called = run(directory, &asked).await;
    assert!(called.stdout.starts_with("allow\n"), "{}", called.stderr);
}

async fn new(directory: &Path, lang: &str) {
    let made = run(directory, &["hook", "new", "my-hook", "--lang", lang]).await;
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let again = run(directory, &["hook", "new", "my-hook", "--lang", lang]).await;
    assert!(
        again.stderr.contains("is there already"),
        "{}",
        again.stderr
    );
}

/// Runs the commands that a README shows up to its first configuration.
async fn build(directory: &Path) {
    let readme = std::fs::read_to_string(directory.join("README.md")).unwrap();
    let commands = readme
        .lines()
        .take_while(|line| !line.contains("config.yaml"));
    for command in commands.filter_map(|line| line.strip_prefix("    ")) {
        let status = Command::new("sh")
            .args(["-ec", command])
            .current_dir(directory)
            .status()
            .await
            .unwrap();
        assert!(status.success(), "{command}");
    }
}

fn is_to_be_built(lang: &str) -> bool {
    let langs = std::env::var("STABLEGATE_BUILD").unwrap_or_default();
    langs.split(',').any(|named| named == lang)
}

#[tokio::test]
async fn a_script_to_start_from() {
    let directory = tempfile::tempdir().unwrap();
    new(directory.path(), "lua").await;
    check(directory.path(), "lua: my-hook.lua").await;
}

#[tokio::test]
async fn a_plugin_in_c_to_start_from() {
    let directory = tempfile::tempdir().unwrap();
    new(directory.path(), "c").await;
    if is_to_be_built("c") {
        build(&directory.path().join("my-hook")).await;
        check(directory.path(), "wasm: my-hook/my-hook.wasm").await;
    }
}

#[tokio::test]
async fn a_plugin_in_rust_to_start_from() {
    let directory = tempfile::tempdir().unwrap();
    new(directory.path(), "rust").await;
    if is_to_be_built("rust") {
        build(&directory.path().join("my-hook")).await;
        let file = "wasm: my-hook/target/wasm32-wasip2/release/my_hook.wasm";
        check(directory.path(), file).await;
    }
}

#[tokio::test]
async fn a_name_is_no_path() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["../x", "", "-", "a b", "a/b"] {
        let made = run(directory.path(), &["hook", "new", name, "--lang", "c"]).await;
        assert_eq!(made.code, Some(2), "{name}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
