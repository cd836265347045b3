#include "serve/tls_files.h"

#include <boost/asio/ssl/context.hpp>

#include "base/error.h"

namespace tutti::serve {

namespace ssl = boost::asio::ssl;

void use_files(ssl::context& context, const TlsFiles& files) {
  const auto check = [](const std::string& file, const boost::system::error_code& error) {
    if (error)
      throw Error(ErrorKind::kBadFile, file + ": cannot be used for TLS (" + error.message() +
                                           "); give a certificate chain and its key as PEM");
  };
  boost::system::error_code error;
  context.set_options(ssl::context::default_workarounds | ssl::context::no_sslv2 |
                      ssl::context::no_sslv3 | ssl::context::no_tlsv1 | ssl::context::no_tlsv1_1);
  context.use_certificate_chain_file(files.certificate, error);
  check(files.certificate, error);
  context.use_private_key_file(files.key, ssl::context::pem, error);
  check(files.key, error);
}

}  // namespace tutti::serve
