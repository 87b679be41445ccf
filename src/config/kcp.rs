//! Translation of the block `kcp` to the settings of the transport.

use stablegate_kcp::fec::Shape;
use stablegate_kcp::{Config, Settings};

use super::Kcp;

impl From<&Kcp> for Config {
    fn from(kcp: &Kcp) -> Self {
        Self {
            session: Settings {
                mtu: kcp.mtu,
                nodelay: kcp.nodelay,
                interval: kcp.interval,
                resend: kcp.resend,
                no_congestion: kcp.no_congestion,
                send_window: kcp.send_window,
                receive_window: kcp.receive_window,
                stream: kcp.stream,
                write_delay: kcp.write_delay,
            },
            read_timeout: kcp.read_timeout,
            // Without data or parity there is no error correction.
            fec: Shape::new(kcp.fec_data.into(), kcp.fec_parity.into()).ok(),
            read_buffer: kcp.read_buffer,
            write_buffer: kcp.write_buffer,
            reuseport: kcp.reuseport,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_transport() {
        assert_eq!(Config::from(&Kcp::default()), Config::default());
    }

    #[test]
    fn error_correction_is_on_with_both_numbers() {
        let fec = |fec_data, fec_parity| {
            let kcp = Kcp {
                fec_data,
                fec_parity,
                ..Kcp::default()
            };
            Config::from(&kcp).fec
        };
        assert_eq!((fec(10, 0), fec(0, 3)), (None, None));
        assert_eq!(fec(10, 3), Shape::new(10, 3).ok());
        assert_eq!(fec(128, 128), Shape::new(128, 128).ok());
    }
}
