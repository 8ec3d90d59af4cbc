//! nginx as a reverse proxy.

use std::net::TcpStream;
use std::process::{Child, Command};

use super::{TempDir, wait_until};

/// Directives of a location that forwards WebSockets: the block of the protocol specification without the upstream.
pub const PASS_UPGRADES: &str = "
      proxy_http_version 1.1;
      proxy_set_header   Upgrade           $http_upgrade;
      proxy_set_header   Connection        \"upgrade\";
      proxy_set_header   Host              $host;
      proxy_set_header   X-Real-IP         $remote_addr;
      proxy_set_header   X-Forwarded-For   $proxy_add_x_forwarded_for;
      proxy_read_timeout 86400;
      proxy_connect_timeout 30s;
      proxy_buffering off;
";

/// A running nginx, stopped when dropped.
pub struct Nginx {
    child: Child,
    pub port: u16,
    _scratch: TempDir,
}

impl Nginx {
    /// Listens on 127.0.0.1. `listen` follows the port (e.g. `ssl`); `server` is inserted in the server block.
    pub fn start(listen: &str, server: &str) -> Self {
        let scratch = TempDir::new("nginx");
        // nginx cannot listen on port 0.
        let port = super::reserve_port();
        let dir = scratch.0.display();
        let config = format!(
            "daemon off; pid {dir}/pid; error_log stderr warn;
events {{}}
http {{
  access_log off;
  client_body_temp_path {dir}; proxy_temp_path {dir}; fastcgi_temp_path {dir};
  uwsgi_temp_path {dir}; scgi_temp_path {dir};
  server {{
    listen 127.0.0.1:{port} {listen};
    {server}
  }}
}}
"
        );
        let file = scratch.write("nginx.conf", &config);
        let child = Command::new("nginx").args(["-c", &file, "-e", "stderr"]).spawn().unwrap();
        let nginx = Self { child, port, _scratch: scratch };
        wait_until("nginx", || TcpStream::connect(("127.0.0.1", port)).ok());
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master stops its workers on SIGTERM, not on SIGKILL.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}
