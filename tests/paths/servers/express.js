// Express 5 on the first port, Express 4 on the second, and on the third Node's own server, whose
// application reads its URL with the parser of the WHATWG.

const http = require("http");

const escape = (text) =>
  [...Buffer.from(text)]
    .map((code) =>
      code > 0x20 && code < 0x7f && code !== 0x5c
        ? String.fromCharCode(code)
        : "\\x" + code.toString(16).padStart(2, "0"),
    )
    .join("");

const reached = (response, name, read) => {
  response.setHeader("x-reached", name);
  response.setHeader("x-read", escape(read));
  response.end();
};

const application = (express, rest) => {
  const app = express();
  const handler = (name) => (request, response) => reached(response, name, request.path);
  app.all("/public/" + rest, handler("public"));
  app.all("/admin/" + rest, handler("admin"));
  app.all("/secret", handler("secret"));
  app.all("/api/:id/keys", handler("keys"));
  app.use((error, request, response, next) => response.status(400).end());
  return app;
};

const whatwg = (request, response) => {
  let path;
  try {
    path = new URL(request.url, "http://localhost").pathname;
  } catch {
    response.statusCode = 400;
    return response.end();
  }
  const name = [
    [/^\/public\//, "public"],
    [/^\/admin(\/|$)/, "admin"],
    [/^\/secret$/, "secret"],
    [/^\/api\/[^/]+\/keys$/, "keys"],
  ].find(([pattern]) => pattern.test(path));
  if (name) return reached(response, name[1], path);
  response.statusCode = 404;
  response.end();
};

if (process.argv.length < 3) {
  const version = (name) => require(name + "/package.json").version;
  console.log(version("express"), version("express4"), process.versions.node);
} else {
  const ports = process.argv.slice(2);
  application(require("express"), "*rest").listen(ports[0], "127.0.0.1");
  application(require("express4"), "*").listen(ports[1], "127.0.0.1");
  http.createServer(whatwg).listen(ports[2], "127.0.0.1");
}
