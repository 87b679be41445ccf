//! System interfaces of WASI 0.2, which compilers link into a plugin.
//!
//! Clocks and randomness work, standard output and error go to the log. There are no arguments, no
//! variables, no input, no files and no network; functions that would reach them trap when called.

use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rand::RngCore;
use tracing::Level;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{
    Component, ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType,
};
use wasmtime::{Result, StoreContextMut, bail};

use super::guest::Guest;

/// Most random bytes of one call.
const MAX_RANDOM: u64 = 64 * 1024;

/// Length from which a line of standard output or error is broken, bytes.
const MAX_LINE: usize = 1024;

/// Bytes that a stream takes at once.
const WINDOW: u64 = 64 * 1024;

/// Beginning of monotonic time.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

enum IoError {}
enum InputStream {}
enum OutputStream {}
enum Descriptor {}
enum TerminalInput {}
enum TerminalOutput {}
/// Resource that no working function uses.
enum Unreachable {}

/// `wasi:io/streams.stream-error`
#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    LastOperationFailed(Resource<IoError>),
    #[component(name = "closed")]
    Closed,
}

/// `wasi:clocks/wall-clock.datetime`
#[derive(ComponentType, Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

type Context<'a> = StoreContextMut<'a, Guest>;

/// Defines the system interfaces that a component imports: some work, the rest traps.
pub(super) fn define(linker: &mut Linker<Guest>, component: &Component) -> Result<()> {
    let engine = component.engine();
    let ty = component.component_type();
    linker.allow_shadowing(true);
    for (name, import) in ty.imports(engine) {
        // All versions of 0.2 have these functions.
        let Some((interface, _)) = name
            .strip_prefix("wasi:")
            .and_then(|name| name.split_once("@0.2"))
        else {
            continue;
        };
        let mut instance = linker.instance(name)?;
        if let ComponentItem::ComponentInstance(ty) = import.ty {
            for (item, export) in ty.exports(engine) {
                trap(&mut instance, name, item, &export.ty)?;
            }
        }
        match interface {
            "cli/environment" => environment(&mut instance)?,
            "cli/exit" => exit(&mut instance)?,
            "cli/stdin" => stdin(&mut instance)?,
            "cli/stdout" => output(&mut instance, "get-stdout")?,
            "cli/stderr" => output(&mut instance, "get-stderr")?,
            "cli/terminal-stdin" => none::<TerminalInput>(&mut instance, "get-terminal-stdin")?,
            "cli/terminal-stdout" => none::<TerminalOutput>(&mut instance, "get-terminal-stdout")?,
            "cli/terminal-stderr" => none::<TerminalOutput>(&mut instance, "get-terminal-stderr")?,
            "clocks/monotonic-clock" => monotonic_clock(&mut instance)?,
            "clocks/wall-clock" => wall_clock(&mut instance)?,
            "filesystem/preopens" => preopens(&mut instance)?,
            "io/streams" => streams(&mut instance)?,
            "random/insecure" => {
                random_bytes(&mut instance, "get-insecure-random-bytes")?;
                random_u64(&mut instance, "get-insecure-random-u64")?;
            }
            "random/insecure-seed" => instance
                .func_wrap("insecure-seed", |_: Context<'_>, ()| {
                    Ok((rand::random::<(u64, u64)>(),))
                })?,
            "random/random" => {
                random_bytes(&mut instance, "get-random-bytes")?;
                random_u64(&mut instance, "get-random-u64")?;
            }
            _ => {}
        }
    }
    linker.allow_shadowing(false);
    Ok(())
}

/// Defines an item that only traps.
fn trap(
    instance: &mut Instance<'_>,
    interface: &str,
    name: &str,
    item: &ComponentItem,
) -> Result<()> {
    match item {
        ComponentItem::ComponentFunc(_) => {
            let name = name.to_owned();
            let called = format!("{interface}#{name} is out of reach of plugins");
            instance.func_new(&name, move |_, _, _, _| bail!("{called}"))
        }
        // A resource has the same name in each interface that uses it.
        ComponentItem::Resource(_) => match name {
            "descriptor" => resource::<Descriptor>(instance, name),
            "error" => resource::<IoError>(instance, name),
            "input-stream" => resource::<InputStream>(instance, name),
            "output-stream" => resource::<OutputStream>(instance, name),
            "terminal-input" => resource::<TerminalInput>(instance, name),
            "terminal-output" => resource::<TerminalOutput>(instance, name),
            _ => resource::<Unreachable>(instance, name),
        },
        _ => Ok(()),
    }
}

/// Writes the rest of the last line to the log.
pub(super) fn flush(guest: &mut Guest) {
    if !guest.line.is_empty() {
        guest.log.write(Level::INFO, &guest.line);
        guest.line.clear();
    }
}

/// Writes bytes to the log, line by line.
fn print(guest: &mut Guest, bytes: &[u8]) {
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        for part in line.chunks(MAX_LINE) {
            let text = part.strip_suffix(b"\n");
            guest.line.extend_from_slice(text.unwrap_or(part));
            if text.is_some() || guest.line.len() >= MAX_LINE {
                flush(guest);
            }
        }
    }
}

type Instance<'a> = LinkerInstance<'a, Guest>;

fn resource<T: 'static>(instance: &mut Instance<'_>, name: &str) -> Result<()> {
    // No resource has any state to drop.
    instance.resource(name, ResourceType::host::<T>(), |_, _| Ok(()))
}

/// Defines a function that always returns `none`.
fn none<T: Send + Sync + 'static>(instance: &mut Instance<'_>, name: &str) -> Result<()> {
    instance.func_wrap(name, |_: Context<'_>, ()| Ok((None::<Resource<T>>,)))
}

fn environment(instance: &mut Instance<'_>) -> Result<()> {
    instance.func_wrap("get-environment", |_: Context<'_>, ()| {
        Ok((Vec::<(String, String)>::new(),))
    })?;
    instance.func_wrap("get-arguments", |_: Context<'_>, ()| {
        Ok((Vec::<String>::new(),))
    })?;
    instance.func_wrap("initial-cwd", |_: Context<'_>, ()| Ok((None::<String>,)))
}

fn exit(instance: &mut Instance<'_>) -> Result<()> {
    instance.func_wrap(
        "exit",
        |_: Context<'_>, (_,): (Result<(), ()>,)| -> Result<()> { bail!("the plugin exited") },
    )
}

fn stdin(instance: &mut Instance<'_>) -> Result<()> {
    instance.func_wrap("get-stdin", |_: Context<'_>, ()| {
        Ok((Resource::<InputStream>::new_own(0),))
    })
}

fn output(instance: &mut Instance<'_>, name: &str) -> Result<()> {
    instance.func_wrap(name, |_: Context<'_>, ()| {
        Ok((Resource::<OutputStream>::new_own(0),))
    })
}

fn streams(instance: &mut Instance<'_>) -> Result<()> {
    type Output = Resource<OutputStream>;
    for name in [
        "[method]input-stream.read",
        "[method]input-stream.blocking-read",
    ] {
        instance.func_wrap(name, |_: Context<'_>, _: (Resource<InputStream>, u64)| {
            Ok((Err::<Vec<u8>, _>(StreamError::Closed),))
        })?;
    }
    instance.func_wrap(
        "[method]output-stream.check-write",
        |_: Context<'_>, _: (Output,)| Ok((Ok::<_, StreamError>(WINDOW),)),
    )?;
    for name in [
        "[method]output-stream.write",
        "[method]output-stream.blocking-write-and-flush",
    ] {
        instance.func_wrap(
            name,
            |mut context: Context<'_>, (_, bytes): (Output, Vec<u8>)| {
                print(context.data_mut(), &bytes);
                Ok((Ok::<_, StreamError>(()),))
            },
        )?;
    }
    for name in [
        "[method]output-stream.flush",
        "[method]output-stream.blocking-flush",
    ] {
        instance.func_wrap(name, |_: Context<'_>, _: (Output,)| {
            Ok((Ok::<_, StreamError>(()),))
        })?;
    }
    Ok(())
}

fn monotonic_clock(instance: &mut Instance<'_>) -> Result<()> {
    instance.func_wrap("now", |_: Context<'_>, ()| {
        Ok((START.elapsed().as_nanos() as u64,))
    })?;
    instance.func_wrap("resolution", |_: Context<'_>, ()| Ok((1u64,)))
}

fn wall_clock(instance: &mut Instance<'_>) -> Result<()> {
    instance.func_wrap("now", |_: Context<'_>, ()| {
        // A system clock before 1970 has not been set: the time is 0.
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Ok((Datetime {
            seconds: now.as_secs(),
            nanoseconds: now.subsec_nanos(),
        },))
    })?;
    instance.func_wrap("resolution", |_: Context<'_>, ()| {
        Ok((Datetime {
            seconds: 0,
            nanoseconds: 1,
        },))
    })
}

fn preopens(instance: &mut Instance<'_>) -> Result<()> {
    instance.func_wrap("get-directories", |_: Context<'_>, ()| {
        Ok((Vec::<(Resource<Descriptor>, String)>::new(),))
    })
}

fn random_bytes(instance: &mut Instance<'_>, name: &str) -> Result<()> {
    instance.func_wrap(name, |_: Context<'_>, (length,): (u64,)| {
        if length > MAX_RANDOM {
            bail!("{length} random bytes are more than {MAX_RANDOM}");
        }
        let mut bytes = vec![0; length as usize];
        rand::rng().fill_bytes(&mut bytes);
        Ok((bytes,))
    })
}

fn random_u64(instance: &mut Instance<'_>, name: &str) -> Result<()> {
    instance.func_wrap(name, |_: Context<'_>, ()| Ok((rand::random::<u64>(),)))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};
    use std::sync::Arc;

    use super::*;
    use crate::hooks::Roster;
    use crate::hooks::spec::Environment;
    use crate::hooks::wasm::guest::PluginContext;

    #[test]
    fn a_long_line_is_broken_and_all_of_it_is_there() {
        let mut guest = Guest::new(Arc::new(PluginContext {
            hook: "plugin".into(),
            config: serde_json::Map::new(),
            environment: Environment {
                shared: Arc::default(),
                resolver: Arc::default(),
                hosts: Vec::new(),
                fastway: Roster::default(),
                grown: Arc::default(),
            },
            memory: 1 << 20,
            all_memory: Default::default(),
            most_memory: 1 << 20,
        }));
        let log = Arc::new(tempfile::tempfile().unwrap());
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(log.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            print(&mut guest, &[&[b'#'; 60_000][..], b"\n"].concat());
            print(&mut guest, b"one\ntwo\n");
        });
        let mut text = String::new();
        (&*log).rewind().unwrap();
        (&*log).read_to_string(&mut text).unwrap();
        assert_eq!(text.matches('#').count(), 60_000);
        assert!(text.contains("one"), "{text}");
        assert!(text.contains("two"), "{text}");
        assert_eq!(text.lines().count(), 61);
    }
}
