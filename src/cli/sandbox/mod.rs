//! `tiffin sandbox`: real servers in a temporary folder, the proxy in front of them, and a tour.

pub mod servers;
