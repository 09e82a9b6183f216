// Tomcat, embedded: as it comes on the first port; on the second with every leniency it has.

import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.File;
import org.apache.catalina.Context;
import org.apache.catalina.connector.Connector;
import org.apache.catalina.startup.Tomcat;
import org.apache.catalina.util.ServerInfo;
import org.apache.tomcat.util.buf.EncodedSolidusHandling;

public class Main {
    static HttpServlet handler(String name) {
        return new HttpServlet() {
            @Override
            protected void service(HttpServletRequest request, HttpServletResponse response) {
                String info = request.getPathInfo();
                response.setHeader("x-reached", name);
                response.setHeader("x-read", Read.escape(request.getServletPath() + (info == null ? "" : info)));
            }
        };
    }

    static class Read {
        static String escape(String text) {
            StringBuilder escaped = new StringBuilder();
            for (byte one : text.getBytes(java.nio.charset.StandardCharsets.UTF_8)) {
                int code = one & 0xff;
                escaped.append(code > 0x20 && code < 0x7f && code != '\\' ? String.valueOf((char) code) : String.format("\\x%02x", code));
            }
            return escaped.toString();
        }
    }

    public static void main(String[] args) throws Exception {
        if (args.length == 0) {
            System.out.println(ServerInfo.getServerNumber());
            return;
        }
        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir(args[2]);
        tomcat.setPort(Integer.parseInt(args[0]));
        tomcat.getConnector();
        Connector lenient = new Connector();
        lenient.setPort(Integer.parseInt(args[1]));
        lenient.setEncodedSolidusHandling(EncodedSolidusHandling.DECODE.getValue());
        lenient.setAllowBackslash(true);
        lenient.setEncodedReverseSolidusHandling(EncodedSolidusHandling.DECODE.getValue());
        lenient.setProperty("relaxedPathChars", "\"<>[\\]^`{|}");
        lenient.setRejectSuspiciousURIs(false);
        tomcat.getService().addConnector(lenient);
        Context context = tomcat.addContext("", new File(args[2]).getAbsolutePath());
        Tomcat.addServlet(context, "public", handler("public"));
        context.addServletMappingDecoded("/public/*", "public");
        Tomcat.addServlet(context, "admin", handler("admin"));
        context.addServletMappingDecoded("/admin/*", "admin");
        Tomcat.addServlet(context, "secret", handler("secret"));
        context.addServletMappingDecoded("/secret", "secret");
        tomcat.start();
        tomcat.getServer().await();
    }
}
