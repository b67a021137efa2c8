import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.StringWriter;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.HashMap;
import java.util.Map;
import org.apache.velocity.VelocityContext;
import org.apache.velocity.app.VelocityEngine;
import org.apache.velocity.runtime.RuntimeConstants;

/**
 * Renders mapping templates as API Gateway does, with Apache Velocity and those of the gateway's variables that the
 * template uses. Each line of the input is a template, a body and a request id, each in Base64; each line of the output
 * is what was rendered, in Base64, and the status that the template has set, or "-"; or what went wrong and "failed".
 */
public class Render {
    public record Input(String body) {
        public String getBody() { return body; }
    }

    public static class Util {
        public String urlEncode(String s) { return URLEncoder.encode(s, StandardCharsets.UTF_8); }
    }

    public static void main(String[] args) throws Exception {
        VelocityEngine engine = new VelocityEngine();
        engine.setProperty(RuntimeConstants.RUNTIME_LOG_LOGSYSTEM_CLASS, "org.apache.velocity.runtime.log.NullLogChute");
        engine.init();
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] fields = line.split(" ", -1);
            Map<String, Object> override = new HashMap<>();
            Map<String, Object> context = new HashMap<>();
            context.put("requestId", decode(fields[2]));
            context.put("responseOverride", override);
            VelocityContext variables = new VelocityContext();
            variables.put("input", new Input(decode(fields[1])));
            variables.put("util", new Util());
            variables.put("context", context);
            StringWriter out = new StringWriter();
            try {
                engine.evaluate(variables, out, "mapping", decode(fields[0]));
                System.out.println(encode(out.toString()) + " " + override.getOrDefault("status", "-"));
            } catch (RuntimeException e) {
                System.out.println(encode(e.toString()) + " failed");
            }
        }
    }

    private static String encode(String text) {
        return Base64.getEncoder().encodeToString(text.getBytes(StandardCharsets.UTF_8));
    }

    private static String decode(String field) {
        return new String(Base64.getDecoder().decode(field), StandardCharsets.UTF_8);
    }
}
