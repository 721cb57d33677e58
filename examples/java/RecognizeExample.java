import com.google.protobuf.Any;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.GrpcSslContexts;
import io.grpc.netty.NettyChannelBuilder;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.MetadataUtils;
import java.io.File;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import smallm.ner.v1.NerServiceGrpc;
import smallm.ner.v1.Ner;

/**
 * Entities of one text. Knows no more of the server than its .proto.
 *
 * <p>Usage: RecognizeExample HOST:PORT TEXT [DOMAIN [CA.pem]]. DOMAIN may be empty where the server has one. With a CA the
 * connection is encrypted. A bearer token is taken from the environment variable SMALLM_TOKEN.
 */
public final class RecognizeExample {
  private static final int ATTEMPTS = 5;

  public static void main(String[] arguments) throws Exception {
    NettyChannelBuilder builder = NettyChannelBuilder.forTarget(arguments[0]);
    if (arguments.length > 3) {
      builder.sslContext(GrpcSslContexts.forClient().trustManager(new File(arguments[3])).build());
    } else {
      builder.usePlaintext();
    }
    ManagedChannel channel = builder.build();
    try {
      // A Java string counts UTF-16 code units, and so are the offsets asked for.
      Ner.RecognizeRequest request =
          Ner.RecognizeRequest.newBuilder()
              .setText(arguments[1])
              .setDomain(arguments.length > 2 ? arguments[2] : "")
              .setOffsetUnit(Ner.OffsetUnit.OFFSET_UNIT_UTF16_CODE_UNITS)
              .build();
      Ner.RecognizeResponse response = recognize(authorized(NerServiceGrpc.newBlockingStub(channel)), request);
      for (Ner.Entity entity : response.getEntitiesList()) {
        String slice = arguments[1].substring(entity.getStart(), entity.getEnd());
        System.out.printf("%d %d %s %s %.2f%n", entity.getStart(), entity.getEnd(), entity.getType(), slice, entity.getScore());
      }
      System.out.println("llm " + response.getLlm().getStatus() + " " + response.getLlm().getReason());
      System.out.println("bundle " + response.getProvenance().getBundleSha256());
    } catch (StatusRuntimeException error) {
      explain(error);
      System.exit(1);
    } finally {
      channel.shutdown().awaitTermination(5, TimeUnit.SECONDS);
    }
  }

  /** Calls again what the server asks to be called again, after as long as it says and a little more at random. */
  private static Ner.RecognizeResponse recognize(NerServiceGrpc.NerServiceBlockingStub stub, Ner.RecognizeRequest request)
      throws Exception {
    for (int attempt = 1; ; attempt++) {
      try {
        return stub.withDeadlineAfter(10, TimeUnit.SECONDS).recognize(request);
      } catch (StatusRuntimeException error) {
        RetryInfo retry = detail(error, RetryInfo.class);
        if (retry == null || attempt == ATTEMPTS) {
          throw error;
        }
        long told = 1000 * retry.getRetryDelay().getSeconds() + retry.getRetryDelay().getNanos() / 1_000_000;
        Thread.sleep(told + ThreadLocalRandom.current().nextLong(told + 100));
      }
    }
  }

  private static NerServiceGrpc.NerServiceBlockingStub authorized(NerServiceGrpc.NerServiceBlockingStub stub) {
    String token = System.getenv("SMALLM_TOKEN");
    if (token == null || token.isEmpty()) {
      return stub;
    }
    Metadata headers = new Metadata();
    headers.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + token);
    return stub.withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers));
  }

  private static void explain(StatusRuntimeException error) throws Exception {
    ErrorInfo info = detail(error, ErrorInfo.class);
    System.err.println(error.getStatus().getCode() + " " + (info == null ? "" : info.getReason()));
    BadRequest bad = detail(error, BadRequest.class);
    if (bad != null) {
      for (BadRequest.FieldViolation violation : bad.getFieldViolationsList()) {
        System.err.println(violation.getField() + ": " + violation.getDescription());
      }
    }
  }

  /** A detail of the given kind in the error's google.rpc.Status; null if there is none. */
  private static <T extends com.google.protobuf.Message> T detail(StatusRuntimeException error, Class<T> kind)
      throws Exception {
    com.google.rpc.Status status = StatusProto.fromThrowable(error);
    if (status != null) {
      for (Any packed : status.getDetailsList()) {
        if (packed.is(kind)) {
          return packed.unpack(kind);
        }
      }
    }
    return null;
  }

  private RecognizeExample() {}
}
