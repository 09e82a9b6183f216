// Jetty with servlets, and on the second port Spring MVC on Jetty, both as they come.

import javax.servlet.http.HttpServlet;
import javax.servlet.http.HttpServletRequest;
import javax.servlet.http.HttpServletResponse;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.servlet.ServletContextHandler;
import org.eclipse.jetty.servlet.ServletHolder;
import org.eclipse.jetty.util.Jetty;
import org.springframework.core.SpringVersion;
import org.springframework.stereotype.Controller;
import org.springframework.web.bind.annotation.RequestMapping;
import org.springframework.web.context.support.AnnotationConfigWebApplicationContext;
import org.springframework.web.servlet.DispatcherServlet;
import org.springframework.web.servlet.mvc.method.annotation.RequestMappingHandlerAdapter;
import org.springframework.web.servlet.mvc.method.annotation.RequestMappingHandlerMapping;
import org.springframework.web.util.UrlPathHelper;

public class Main {
    static void reached(HttpServletResponse response, String name, String read) {
        StringBuilder escaped = new StringBuilder();
        for (byte one : read.getBytes(java.nio.charset.StandardCharsets.UTF_8)) {
            int code = one & 0xff;
            escaped.append(code > 0x20 && code < 0x7f && code != '\\' ? String.valueOf((char) code) : String.format("\\x%02x", code));
        }
        response.setHeader("x-reached", name);
        response.setHeader("x-read", escaped.toString());
    }

    static HttpServlet handler(String name) {
        return new HttpServlet() {
            @Override
            protected void service(HttpServletRequest request, HttpServletResponse response) {
                String info = request.getPathInfo();
                reached(response, name, request.getServletPath() + (info == null ? "" : info));
            }
        };
    }

    @Controller
    public static class Handlers {
        static void reach(HttpServletRequest request, HttpServletResponse response, String name) {
            reached(response, name, new UrlPathHelper().getLookupPathForRequest(request));
            response.setStatus(200);
        }

        @RequestMapping("/public/**")
        public void open(HttpServletRequest request, HttpServletResponse response) {
            reach(request, response, "public");
        }

        @RequestMapping("/admin/**")
        public void admin(HttpServletRequest request, HttpServletResponse response) {
            reach(request, response, "admin");
        }

        @RequestMapping("/secret")
        public void secret(HttpServletRequest request, HttpServletResponse response) {
            reach(request, response, "secret");
        }

        @RequestMapping("/api/{id}/keys")
        public void keys(HttpServletRequest request, HttpServletResponse response) {
            reach(request, response, "keys");
        }
    }

    public static void main(String[] args) throws Exception {
        if (args.length == 0) {
            System.out.println(Jetty.VERSION + " " + SpringVersion.getVersion());
            return;
        }
        Server jetty = new Server(Integer.parseInt(args[0]));
        ServletContextHandler servlets = new ServletContextHandler();
        servlets.addServlet(new ServletHolder(handler("public")), "/public/*");
        servlets.addServlet(new ServletHolder(handler("admin")), "/admin/*");
        servlets.addServlet(new ServletHolder(handler("secret")), "/secret");
        jetty.setHandler(servlets);
        jetty.start();
        Server spring = new Server(Integer.parseInt(args[1]));
        ServletContextHandler context = new ServletContextHandler();
        AnnotationConfigWebApplicationContext application = new AnnotationConfigWebApplicationContext();
        application.register(RequestMappingHandlerMapping.class, RequestMappingHandlerAdapter.class, Handlers.class);
        context.addServlet(new ServletHolder(new DispatcherServlet(application)), "/");
        spring.setHandler(context);
        spring.start();
        spring.join();
    }
}
