//! scp, the stable connection protocol of goscon.
