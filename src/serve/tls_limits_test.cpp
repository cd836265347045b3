// Limits of time hold over TLS whatever the client does meanwhile.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "serve/http_server.h"

namespace tutti::serve {
namespace {

using namespace std::chrono_literals;

// A key and a certificate that it signs itself, as files.
TlsFiles write_tls_files(const std::filesystem::path& folder) {
  const TlsFiles files{(folder / "cert.pem").string(), (folder / "key.pem").string()};
  const std::unique_ptr<EVP_PKEY, void (*)(EVP_PKEY*)> key(EVP_EC_gen("P-256"), EVP_PKEY_free);
  const std::unique_ptr<X509, void (*)(X509*)> cert(X509_new(), X509_free);
  X509_gmtime_adj(X509_getm_notBefore(cert.get()), 0);
  X509_gmtime_adj(X509_getm_notAfter(cert.get()), 3600);
  X509_set_pubkey(cert.get(), key.get());
  X509_sign(cert.get(), key.get(), EVP_sha256());
  FILE* file = std::fopen(files.certificate.c_str(), "w");
  PEM_write_X509(file, cert.get());
  std::fclose(file);
  file = std::fopen(files.key.c_str(), "w");
  PEM_write_PrivateKey(file, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
  std::fclose(file);
  return files;
}

// A server on a thread of its own, whose requests wait to be answered.
class Server {
 public:
  Server()
      : server_(net_, "127.0.0.1", 0, limits(), [this](const auto& e) { take(e); }, {}, tls()) {
    thread_ = std::thread([this] { net_.run(); });
  }
  ~Server() {
    net_.stop();
    thread_.join();
    std::filesystem::remove_all(folder_);
  }
  uint16_t port() const { return server_.port(); }
  // The one request that was asked.
  std::shared_ptr<HttpExchange> request() { return asked_.get_future().get(); }
  void answer(std::shared_ptr<HttpExchange> exchange) {
    asio::post(net_, [exchange = std::move(exchange)] { exchange->respond({}); });
  }
  // Whether the request's connection has ended with it by then.
  bool ends_within(std::chrono::seconds time) {
    return closed_.get_future().wait_for(time) == std::future_status::ready;
  }

 private:
  static HttpLimits limits() {
    HttpLimits limits;
    limits.write_seconds = 0.5;
    return limits;
  }
  TlsFiles tls() {
    folder_ = std::filesystem::temp_directory_path() / ("tutti-tls-" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
    return write_tls_files(folder_);
  }
  void take(const std::shared_ptr<HttpExchange>& exchange) {
    exchange->on_closed([this](int) { closed_.set_value(); });
    asked_.set_value(exchange);
  }

  std::filesystem::path folder_;
  asio::io_context net_;
  std::promise<std::shared_ptr<HttpExchange>> asked_;
  std::promise<void> closed_;
  HttpServer server_;
  std::thread thread_;
};

// A client that sends and never reads, with little room for what comes.
class Client {
 public:
  explicit Client(uint16_t port) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    const int room = 4096;
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_port = htons(port);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(socket_, reinterpret_cast<const sockaddr*>(&at), sizeof at), 0);
    SSL_set_fd(ssl_.get(), socket_);
    EXPECT_EQ(SSL_connect(ssl_.get()), 1);
  }
  ~Client() { ::close(socket_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  void send(const std::string& text) {
    EXPECT_EQ(SSL_write(ssl_.get(), text.data(), int(text.size())), int(text.size()));
  }
  // Asks the server for a new key, which it answers. False: the connection takes no more for so
  // long.
  bool ask_for_a_key(std::chrono::milliseconds patience) {
    pollfd writable{socket_, POLLOUT, 0};
    if (::poll(&writable, 1, int(patience.count())) != 1) return false;
    return SSL_key_update(ssl_.get(), SSL_KEY_UPDATE_REQUESTED) == 1 &&
           SSL_do_handshake(ssl_.get()) == 1;
  }

 private:
  int socket_;
  std::unique_ptr<SSL_CTX, void (*)(SSL_CTX*)> context_{SSL_CTX_new(TLS_client_method()),
                                                        SSL_CTX_free};
  std::unique_ptr<SSL, void (*)(SSL*)> ssl_{SSL_new(context_.get()), SSL_free};
};

// The server's answers to that fill the way back, as a part of its reading. The answer of the
// request, which has no room there, gives up in its time all the same.
TEST(TlsLimits, HoldWhileTheClientAsksForKeysAndReadsNothing) {
  Server server;
  Client client(server.port());
  client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
  std::shared_ptr<HttpExchange> exchange = server.request();
  int asked = 0;
  while (asked < 1'000'000 && client.ask_for_a_key(1000ms)) ++asked;
  ASSERT_LT(asked, 1'000'000) << "the server reads on without end";
  server.answer(std::move(exchange));
  EXPECT_TRUE(server.ends_within(10s));
}

}  // namespace
}  // namespace tutti::serve
