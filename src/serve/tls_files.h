// A certificate and its key.
#pragma once

#include <string>

namespace boost::asio::ssl {
class context;
}

namespace tutti::serve {

// A certificate chain and its private key, as PEM; empty: no TLS.
struct TlsFiles {
  std::string certificate, key;
};

// TLS 1.2 and later. Throws Error(kBadFile) that begins with the name of the file that is wrong.
void use_files(boost::asio::ssl::context& context, const TlsFiles& files);

}  // namespace tutti::serve
