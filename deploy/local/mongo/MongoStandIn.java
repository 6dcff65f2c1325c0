import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import de.bwaldvogel.mongo.bson.Document;
import io.netty.channel.Channel;
import java.util.List;
import java.util.Set;
import org.h2.mvstore.MVStore;

/** A stand-in for MongoDB where no mongod can be had: {@code MongoStandIn HOST PORT FILE}. */
public final class MongoStandIn {
    private static final Set<String> WRITES = Set.of(
        "insert", "update", "delete", "findandmodify", "createindexes", "dropindexes", "create", "drop", "dropdatabase");

    /** The oldest server that today's drivers accept; the library itself reports less. */
    private static final MongoVersion VERSION = new MongoVersion() {
        @Override public List<Integer> getVersionArray() { return List.of(5, 0, 0); }
        @Override public int getWireVersion() { return 13; }
    };

    public static void main(String[] args) {
        // No commit in the background: a write is in the file before it is acknowledged, or not at all.
        MVStore store = new MVStore.Builder().fileName(args[2]).autoCommitDisabled().open();
        MongoServer server = new MongoServer(new DurableBackend(store).version(VERSION));
        Runtime.getRuntime().addShutdownHook(new Thread(server::shutdownNow));
        server.bind(args[0], Integer.parseInt(args[1]));
    }

    private static final class DurableBackend extends H2Backend {
        DurableBackend(MVStore store) { super(store); }

        @Override public Document handleCommand(Channel channel, String database, String command, Document query) {
            Document reply = super.handleCommand(channel, database, command, query);
            if (WRITES.contains(command.toLowerCase())) {
                commit();
            }
            return reply;
        }
    }
}
