//! Streams of bytes that are one of several kinds.

/// Implements `AsyncRead` and `AsyncWrite` for an enum whose variants hold streams.
macro_rules! delegate_io {
    ($type:ident: $($variant:ident),*) => {
        impl tokio::io::AsyncRead for $type {
            fn poll_read(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                buf: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                match self.get_mut() {
                    $(Self::$variant(inner) => std::pin::Pin::new(inner).poll_read(cx, buf),)*
                }
            }
        }

        impl tokio::io::AsyncWrite for $type {
            fn poll_write(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                bytes: &[u8],
            ) -> std::task::Poll<std::io::Result<usize>> {
                match self.get_mut() {
                    $(Self::$variant(inner) => std::pin::Pin::new(inner).poll_write(cx, bytes),)*
                }
            }

            fn poll_write_vectored(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                slices: &[std::io::IoSlice<'_>],
            ) -> std::task::Poll<std::io::Result<usize>> {
                match self.get_mut() {
                    $(Self::$variant(inner) => {
                        std::pin::Pin::new(inner).poll_write_vectored(cx, slices)
                    })*
                }
            }

            fn is_write_vectored(&self) -> bool {
                match self {
                    $(Self::$variant(inner) => inner.is_write_vectored(),)*
                }
            }

            fn poll_flush(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                match self.get_mut() {
                    $(Self::$variant(inner) => std::pin::Pin::new(inner).poll_flush(cx),)*
                }
            }

            fn poll_shutdown(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                match self.get_mut() {
                    $(Self::$variant(inner) => std::pin::Pin::new(inner).poll_shutdown(cx),)*
                }
            }
        }
    };
}

pub(crate) use delegate_io;
